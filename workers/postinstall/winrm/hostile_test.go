package winrm_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	sim "slipway/sim/winrm"
	"slipway/workers/postinstall/winrm"
)

const (
	soapOpen = `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:r="http://schemas.microsoft.com/wbem/wsman/1/windows/shell" ` +
		`xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><s:Header/><s:Body>`
	soapClose = `</s:Body></s:Envelope>`
	escapes   = "\x1b]0;owned\a\x1b[2J\u202e\u009b31m"
	shellDone = `http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState/Done`
)

// hostileWinRM is a guest behind the right certificate that a customer has replaced: it answers each kind of message as a test says, and as
// Windows would where the test says nothing.
func hostileWinRM(t *testing.T, certificate tls.Certificate, own map[string]http.HandlerFunc) netip.AddrPort {
	t.Helper()
	say := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, soapOpen+body+soapClose) }
	}
	usual := map[string]http.HandlerFunc{
		"login":   say(""),
		"Create":  say(`<x:ResourceCreated><a:ReferenceParameters><w:SelectorSet><w:Selector Name="ShellId">AB-1</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>`),
		"Command": say(`<r:CommandResponse><r:CommandId>AB-2</r:CommandId></r:CommandResponse>`),
		"Send":    say(`<r:SendResponse/>`),
		"Receive": say(""),
		"Delete":  say(""),
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		kind := "login"
		for action := range usual {
			if bytes.Contains(body, []byte("/"+action+"</")) || bytes.Contains(body, []byte("/"+action+`<`)) {
				kind = action
			}
		}
		if h := own[kind]; h != nil {
			h(w, r)
			return
		}
		usual[kind](w, r)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(server.Listener.Addr().String())
}

func stream(command, content string) string {
	return `<r:Stream Name="stdout" CommandId="` + command + `">` + base64.StdEncoding.EncodeToString([]byte(content)) + `</r:Stream>`
}

func output(command, content string, exit string) string {
	state := ""
	if exit != "" {
		state = `<r:CommandState CommandId="` + command + `" State="` + shellDone + `"><r:ExitCode>` + exit + `</r:ExitCode></r:CommandState>`
	}
	return soapOpen + `<r:ReceiveResponse>` + stream(command, content) + state + `</r:ReceiveResponse>` + soapClose
}

func runnerSays(text string) string {
	return "slipway:" + base64.StdEncoding.EncodeToString([]byte(text)) + "\r\n"
}

// Whatever a Windows guest answers, the call ends within its limits, takes little memory, and says which machine it was in words that a terminal
// may show.
func TestHostileGuests(t *testing.T) {
	certificate, pin, err := sim.SelfSigned("WIN-TEMPLATE")
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	}
	pour := func(begin, again string) http.HandlerFunc {
		block := strings.Repeat(again, 1+(64<<10)/len(again))
		return func(w http.ResponseWriter, _ *http.Request) {
			for _, err := io.WriteString(w, begin); err == nil; _, err = io.WriteString(w, block) {
			}
		}
	}
	drip := func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
				if _, err := io.WriteString(w, " "); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
			}
		}
	}
	timedOut := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, soapOpen+`<s:Fault><s:Reason><s:Text>`+"later"+`</s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="2150858793"/></s:Detail></s:Fault>`+soapClose)
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	t.Cleanup(elsewhere.Close)
	on := func(action string, h http.HandlerFunc) map[string]http.HandlerFunc {
		return map[string]http.HandlerFunc{action: h}
	}
	const transient = orchestrator.Transient
	b := setup(t, func(_ *sim.Config, w *winrm.Config) {
		w.Basic, w.Dial = true, new(net.Dialer).DialContext
		w.Templates = func(string, string) winrm.Template {
			return winrm.Template{Password: orchestrator.NewSecret(login), PinSHA256: []string{pin}}
		}
	})
	for name, tt := range map[string]struct {
		own  map[string]http.HandlerFunc
		says string
		most int64 // MiB
	}{
		"a login without end":        {on("login", pour("", "x")), "more than 1048576 bytes", 12},
		"a login byte by byte":       {on("login", drip), "no login within", 12},
		"an envelope without end":    {on("Create", pour(soapOpen+"<x:ResourceCreated>", "<a:ReferenceParameters/>")), "more than 1048576 bytes", 12},
		"elements within elements":   {on("Create", write(soapOpen+strings.Repeat("<a:x>", 100_000))), "levels of elements", 24},
		"a document type":            {on("Create", write(`<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>`+soapOpen+`&b;`+soapClose)), "document type", 12},
		"a shell that would be ours": {on("Create", write(soapOpen+`<x:ResourceCreated><a:ReferenceParameters><w:SelectorSet><w:Selector Name="ShellId">&lt;/x&gt;`+"\u202e"+`</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>`+soapClose)), "names no shell", 12},
		"a fault with escapes":       {on("Create", write(soapOpen+"<s:Fault><s:Reason><s:Text>&#x9b;31m\u202eno "+strings.Repeat("no ", 10_000)+"</s:Text></s:Reason></s:Fault>"+soapClose)), "WS-Management fault 0: 31mno no", 12},
		"what is packed": {on("Create", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bytes.Repeat([]byte{0x1f, 0x8b}, 1000))
		}), "no XML", 12},
		"a redirect": {on("Create", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}), "307", 12},
		"another command's output":        {on("Receive", write(output("AB-9", runnerSays(`{"setup":"IMAGE_STATE_COMPLETE"}`), "0"))), "another command", 12},
		"output without end":              {on("Receive", write(output("AB-2", strings.Repeat("x", 700<<10), ""))), "said more than 1048576 bytes", 24},
		"nothing again and again":         {on("Receive", write(output("AB-2", "", ""))), "did not finish within", 12},
		"later again and again":           {on("Receive", timedOut), "did not finish within", 12},
		"an end byte by byte":             {on("Receive", drip), "did not finish within", 12},
		"an exit code that is none":       {on("Receive", write(output("AB-2", "", "1e9"))), "is no number", 12},
		"success without a word":          {on("Receive", write(output("AB-2", "", "0"))), "no line of the runner", 12},
		"success with escapes":            {on("Receive", write(output("AB-2", escapes, "0"))), "no line of the runner", 12},
		"the runner's line of other type": {on("Receive", write(output("AB-2", runnerSays(`{"code":"x"}`), "0"))), "not as its runner writes", 12},
		"a failure with escapes":          {on("Receive", write(output("AB-2", runnerSays(`{"code":1,"error":"\u001b[2J\u202eno"}`), "1"))), "exit code 1: [2Jno", 12},
		"success with an exit code":       {on("Receive", write(output("AB-2", runnerSays(`{"setup":"IMAGE_STATE_COMPLETE"}`), "5"))), "exit code 5", 12},
		"never done with its setup":       {on("Receive", write(output("AB-2", runnerSays(`{"setup":"\u001b[2J"}`), "0"))), "Windows Setup still runs ([2J)", 12},
	} {
		t.Run(name, func(t *testing.T) {
			b.config.HandshakeTimeout, b.config.CommandTimeout = time.Minute, 2*time.Minute
			switch { // a limit that is to be met is short, and every other one long
			case strings.Contains(tt.says, "no login"):
				b.config.HandshakeTimeout = 500 * time.Millisecond
			case strings.Contains(tt.says, "did not finish"):
				b.config.CommandTimeout = time.Second
			}
			b.restart(t)
			b.ref.Address = hostileWinRM(t, certificate, tt.own)
			began := time.Now()
			var err error
			grown := testenv.Heap(t, func() { _, err = b.installer.Probe(t.Context(), b.ref) })
			if took := time.Since(began); took > 60*time.Second { // the limits, and 5 s for the goodbye
				t.Errorf("it took %s", took)
			}
			if orchestrator.KindOf(err) != transient || !strings.Contains(fmt.Sprint(err), tt.says) || !strings.Contains(fmt.Sprint(err), machineID) || strings.Contains(fmt.Sprint(err), login) {
				t.Errorf("kind %q: %.500v", orchestrator.KindOf(err), err)
			}
			if s := fmt.Sprint(err); len(s) > 2000 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%d bytes that a terminal would act on: %.200q", len(s), s)
			}
			if grown > tt.most*testenv.Mebibyte {
				t.Errorf("it took %d MiB", grown/testenv.Mebibyte)
			}
		})
	}
}
