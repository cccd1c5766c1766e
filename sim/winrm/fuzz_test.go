package winrm

import (
	"strings"
	"testing"
	"time"
)

func FuzzParseRequest(f *testing.F) {
	head := `<s:Envelope xmlns:s="` + nsSoap + `" xmlns:a="` + nsAddressing + `" xmlns:w="` + nsWSMan + `" xmlns:r="` + nsShell + `"><s:Header><a:MessageID>uuid:1</a:MessageID><w:ResourceURI>` + resourceCmd + `</w:ResourceURI><w:OperationTimeout>PT60S</w:OperationTimeout><a:Action>`
	for action, body := range map[string]string{
		actionCreate:  `<r:Shell/>`,
		actionCommand: `<r:CommandLine><r:Command><![CDATA[echo <&>]]></r:Command><r:Arguments>x</r:Arguments></r:CommandLine>`,
		actionSend:    `<r:Send><r:Stream Name="stdin" CommandId="C" End="true">eA==</r:Stream></r:Send>`,
		actionReceive: `<r:Receive><r:DesiredStream CommandId="C">stdout stderr</r:DesiredStream></r:Receive>`,
		actionSignal:  `<r:Signal CommandId="C"><r:Code>` + nsShell + `/signal/terminate</r:Code></r:Signal>`,
	} {
		f.Add([]byte(head + action + `</a:Action></s:Header><s:Body>` + body + `</s:Body></s:Envelope>`))
	}
	f.Add([]byte(`<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>`))
	f.Add([]byte(strings.Repeat("<a>", 100)))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRequest(text)
		if err != nil {
			return
		}
		if r.action == "" || r.messageID == "" || r.timeout < 0 || r.timeout > 24*time.Hour {
			t.Errorf("%+v", r)
		}
		if r.action == actionCommand && r.command == "" || r.action == actionReceive && r.commandID == "" {
			t.Errorf("an empty command: %+v", r)
		}
	})
}

func FuzzNTLM(f *testing.F) {
	challenge, _ := ntlmChallenge(0xe20882b7, "WIN-X", time.Unix(0, 0))
	f.Add(challenge)
	f.Add([]byte(ntlmSignature + "\x01\x00\x00\x00\xb7\x82\x08\xe2"))
	f.Add(append([]byte(ntlmSignature+"\x03\x00\x00\x00"), make([]byte, 80)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = ntlmNegotiate(b)
		if r, err := parseAuthenticate(b); err == nil {
			if _, ok := r.check("a password that no fuzzer knows", [8]byte{1}); ok {
				t.Error("somebody got in")
			}
		}
	})
}

func FuzzSplitEncrypted(f *testing.F) {
	f.Add(joinEncrypted([]byte("sealed"), 6))
	f.Fuzz(func(t *testing.T, b []byte) {
		sealed, length, err := splitEncrypted(b)
		if err == nil && (len(sealed) > len(b) || length < 0) {
			t.Errorf("%d, %d", len(sealed), length)
		}
	})
}

func TestSealingRoundTrip(t *testing.T) {
	t.Parallel()
	key := []byte("0123456789abcdef")
	for _, flags := range []uint32{flagSeal | flagExtended | flag128 | flagKeyExch, flagSeal | flagExtended | flag56} {
		out, err := newSealing(flags, key, "client-to-server")
		if err != nil {
			t.Fatal(err)
		}
		in, err := newSealing(flags, key, "client-to-server")
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"one", "", strings.Repeat("two", 1000)} {
			sealed := out.seal([]byte(text))
			if text != "" && strings.Contains(string(sealed), text) {
				t.Error("the text is readable")
			}
			if got, err := in.open(sealed); err != nil || string(got) != text {
				t.Errorf("%q, %v", got, err)
			}
		}
		if _, err := in.open(out.seal([]byte("x"))[:10]); err == nil {
			t.Error("a cut message was opened")
		}
		sealed := out.seal([]byte("y"))
		sealed[len(sealed)-1] ^= 1
		if _, err := in.open(sealed); err == nil {
			t.Error("a changed message was opened")
		}
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"PT60S": time.Minute, "PT20S": 20 * time.Second, "PT1M30.5S": 90*time.Second + 500*time.Millisecond, "PT0S": 0, "P0DT1H": time.Hour,
		"": -1, "PT": 0, "60": -1, "PT60": -1, "PTS": -1, "P1Y": -1, "PT9999999S": -1, "P2D": -1, "PT-1S": -1,
	} {
		got, err := parseDuration(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q is %s, %v", text, got, err)
		}
	}
}
