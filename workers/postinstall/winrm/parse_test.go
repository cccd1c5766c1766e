package winrm

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/workers/postinstall"
)

const soapHead = `<s:Envelope xmlns:s="` + nsSoap + `" xmlns:r="` + nsShell + `" xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="` + nsWSMan + `"><s:Header/><s:Body>`
const soapTail = `</s:Body></s:Envelope>`

func FuzzParseAnswer(f *testing.F) {
	for _, body := range []string{
		`<x:ResourceCreated><a:ReferenceParameters><w:SelectorSet><w:Selector Name="ShellId">AB-12</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>`,
		`<r:CommandResponse><r:CommandId>AB-12</r:CommandId></r:CommandResponse>`,
		`<r:ReceiveResponse><r:Stream Name="stdout">eA==</r:Stream><r:CommandState State="` + stateDone + `"><r:ExitCode>3010</r:ExitCode></r:CommandState></r:ReceiveResponse>`,
		`<s:Fault><s:Reason><s:Text>no</s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="2150858793"/></s:Detail></s:Fault>`,
	} {
		f.Add([]byte(soapHead + body + soapTail))
	}
	f.Add([]byte(strings.Repeat("<a>", 100)))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := parseAnswer(text)
		if err != nil {
			return
		}
		if id, err := a.shellID(); err == nil && !plainID(id) {
			t.Errorf("shell %q", id)
		}
		if id, err := a.commandID(); err == nil && !plainID(id) {
			t.Errorf("command %q", id)
		}
		if r, err := a.received("AB-12"); err == nil && !r.done && r.code != 0 {
			t.Errorf("an exit code before the end: %+v", r)
		}
	})
}

func FuzzSplitSealed(f *testing.F) {
	f.Add(joinSealed([]byte("sealed"), make([]byte, signatureSize), 6))
	f.Fuzz(func(t *testing.T, b []byte) {
		if sealed, signature, length, err := splitSealed(b); err == nil && (len(signature) != signatureSize || length < 0 || len(sealed) > len(b)) {
			t.Errorf("%d, %d, %d", len(sealed), len(signature), length)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	for _, text := range []string{`{"state":"running","exit":0,"stage":"disk","log":"eA=="}`, `{"identity":"S-1-5-21-1-2-3","output":"eD1vawo="}`, `{"code":64,"error":"no"}`} {
		f.Add([]byte("hello\r\n" + replyMark + base64.StdEncoding.EncodeToString([]byte(text)) + "\r\n"))
	}
	f.Fuzz(func(t *testing.T, out []byte) {
		r, err := parseReply(out)
		if err != nil {
			return
		}
		if s, err := r.status(5); err == nil && (s.Offset != 5+int64(len(s.Log)) || len(s.Stage) > maxWords+len("…")) {
			t.Errorf("%+v", s)
		}
		if i, err := r.inspection(); err == nil && (len(i.Checks) == 0 || i.Identity != "" && !identityPattern.MatchString(i.Identity)) {
			t.Errorf("%+v", i)
		}
	})
}

// What the guest must not get away with.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, body, want string }{
		{"an end without an exit code", `<r:ReceiveResponse><r:CommandState State="` + stateDone + `"/></r:ReceiveResponse>`, "without an exit code"},
		{"an exit code that is none", `<r:ReceiveResponse><r:CommandState State="` + stateDone + `"><r:ExitCode>ok</r:ExitCode></r:CommandState></r:ReceiveResponse>`, "is no number"},
		{"a stream that is no base64", `<r:ReceiveResponse><r:Stream Name="stdout">!</r:Stream></r:ReceiveResponse>`, "is no base64"},
		{"nothing", ``, "has no output"},
	} {
		a, err := parseAnswer([]byte(soapHead + row.body + soapTail))
		if err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		if _, err := a.received("AB-12"); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	a, err := parseAnswer([]byte(soapHead + `<r:CommandResponse><r:CommandId>"/&gt;&lt;x</r:CommandId></r:CommandResponse>` + soapTail))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := a.commandID(); err == nil {
		t.Errorf("a command called %q would go into our messages", id)
	}
	for _, text := range []string{"", "<html>", `<!DOCTYPE a><s:Envelope xmlns:s="` + nsSoap + `"><s:Body/></s:Envelope>`, "<s:Envelope xmlns:s='" + nsSoap + "'/>"} {
		if _, err := parseAnswer([]byte(text)); err == nil {
			t.Errorf("%q is an answer", text)
		}
	}
}

func TestCommandLineIsShortAndConstant(t *testing.T) {
	t.Parallel()
	if n := len(commandLine()); n > maxLine {
		t.Errorf("the command line has %d characters", n)
	}
	if strings.Contains(bootstrap, "%") {
		t.Error("the bootstrap has a place to put something into")
	}
}

// The machine's certificate is judged by openssl, and its binding to the host key by its parts.
func TestCertificate(t *testing.T) {
	t.Parallel()
	openssl := testenv.Need(t, "openssl")
	hostKey, line, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pfx, password, sum, err := newCertificate(hostKey, "web1.example.net", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "c.pfx")
	if err := os.WriteFile(file, []byte(pfx.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), openssl, append([]string{"pkcs12", "-legacy", "-in", file, "-passin", "stdin"}, args...)...)
		cmd.Stdin = strings.NewReader(password.Reveal() + "\n")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if out := read("-nodes", "-nocerts"); !strings.Contains(out, "PRIVATE KEY") {
		t.Error("the file has no private key")
	}
	cmd := exec.CommandContext(t.Context(), openssl, "x509", "-noout", "-fingerprint", "-sha256", "-purpose", "-subject")
	cmd.Stdin = strings.NewReader(read("-nokeys"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ToLower(strings.ReplaceAll(string(out), ":", ""))
	for _, want := range []string{sum, "ssl server  yes", "web1.example.net"} {
		if !strings.Contains(strings.ReplaceAll(text, "ssl server yes", "ssl server  yes"), want) {
			t.Errorf("openssl does not say %q:\n%s", want, text)
		}
	}
	cmd = exec.CommandContext(t.Context(), openssl, "x509", "-outform", "der")
	cmd.Stdin = strings.NewReader(read("-nokeys"))
	der, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{line: true, other: false} {
		all, err := pins(orchestrator.Guest{HostKey: key, Own: true}, []string{sum})
		if err != nil || len(all) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		if signedBy(cert, all[0].hostKey) != want {
			t.Errorf("signed by %s: want %t", key, want)
		}
	}
	// The signature is over this public key: another certificate cannot take it along.
	moved := *cert
	moved.RawSubjectPublicKeyInfo = append([]byte(nil), cert.RawSubjectPublicKeyInfo...)
	moved.RawSubjectPublicKeyInfo[40] ^= 1
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	all, err := pins(orchestrator.Guest{HostKey: line}, nil)
	if err != nil || public == nil || signedBy(&moved, all[0].hostKey) {
		t.Errorf("the signature stands for another key, %v", err)
	}
}

func TestScriptsAreReadAsUTF8(t *testing.T) {
	t.Parallel()
	packed, _, err := pack(postinstall.Bundle{Job: "j", Steps: []postinstall.Step{{Name: "a", Timeout: time.Minute, Script: []byte("exit 0\n")}}})
	if err != nil || !strings.Contains(string(packed), base64.StdEncoding.EncodeToString([]byte("\xef\xbb\xbfexit 0\n"))) {
		t.Errorf("%s, %v", packed, err)
	}
	if _, _, err := pack(postinstall.Bundle{Job: "j", Steps: []postinstall.Step{{Name: "a", Timeout: time.Minute, Script: make([]byte, 1<<20)}}}); err == nil {
		t.Error("a bundle that PowerShell cannot read was packed")
	}
	for i, r := range runner {
		if r > 0x7e {
			t.Fatalf("the runner has %q at %d: not every code page reads it", r, i)
		}
	}
}
