package winrm

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/xml"
	"fmt"
)

// reply is one answer: the HTTP status and the envelope.
type reply struct {
	status int
	body   []byte
}

// fault is an answer that says no. Codes are those that Windows and its clients know; zero is none.
type fault struct {
	code    uint32
	who     string // soap code: Sender or Receiver
	subcode string // of the w prefix
	reason  string
}

func (f *fault) Error() string { return f.reason }

// The faults that clients decide by (winerror.h, 0x8033xxxx in decimal).
const (
	codeTimedOut      = 2150858793 // ERROR_WSMAN_OPERATION_TIMEDOUT: Receive waited as long as it was asked to: ask again
	codeShellNotFound = 2150858843 // ERROR_WSMAN_INVALID_SELECTORS as used for a ShellId that is not there
	codeShellQuota    = 2150859174 // too many shells of one user
	codeSchema        = 2150858817 // ERROR_WSMAN_SCHEMA_VALIDATION_ERROR
)

func timedOut() *fault {
	return &fault{codeTimedOut, "Receiver", "TimedOut", "The WS-Management service cannot complete the operation within the time specified in OperationTimeout."}
}

func shellNotFound(id string) *fault {
	return &fault{codeShellNotFound, "Sender", "InvalidSelectors",
		fmt.Sprintf("The request for the Windows Remote Shell with ShellId %s failed because the shell was not found on the server. Possible causes are: the specified ShellId is incorrect or the shell no longer exists on the server.", id)}
}

func commandNotFound(id string) *fault {
	return &fault{codeShellNotFound, "Sender", "InvalidSelectors", fmt.Sprintf("The command with CommandId %s was not found in the shell.", id)}
}

func shellQuota(most int) *fault {
	return &fault{codeShellQuota, "Receiver", "QuotaLimit",
		fmt.Sprintf("The WS-Management service cannot process the request. The maximum number of concurrent shells for this user has been exceeded. Close existing shells or raise the quota for this user. The quota is %d.", most)}
}

func badMessage(err error) *fault {
	return &fault{codeSchema, "Sender", "SchemaValidationError", "The SOAP XML in the message does not match the corresponding XML schema definition: " + err.Error()}
}

const (
	anonymous   = nsAddressing + "/role/anonymous"
	faultAction = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"
)

func escape(text string) string {
	var b bytes.Buffer
	// Writing into memory cannot fail.
	_ = xml.EscapeText(&b, []byte(text))
	return b.String()
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func wrap(action, relatesTo, body string) []byte {
	return []byte(`<s:Envelope xml:lang="en-US" xmlns:s="` + nsSoap + `" xmlns:a="` + nsAddressing + `" xmlns:x="` + nsTransfer + `" xmlns:w="` + nsWSMan +
		`" xmlns:rsp="` + nsShell + `"><s:Header><a:Action>` + action + `</a:Action><a:MessageID>uuid:` + newID() + `</a:MessageID><a:To>` + anonymous +
		`</a:To><a:RelatesTo>` + escape(relatesTo) + `</a:RelatesTo></s:Header><s:Body>` + body + `</s:Body></s:Envelope>`)
}

func (f *fault) reply(relatesTo string) reply {
	body := `<s:Fault><s:Code><s:Value>s:` + f.who + `</s:Value><s:Subcode><s:Value>w:` + f.subcode + `</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">` +
		escape(f.reason) + `</s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f="` + nsFault + fmt.Sprintf(`" Code="%d" Machine="simulated"><f:Message>`, f.code) +
		escape(f.reason) + `</f:Message></f:WSManFault></s:Detail></s:Fault>`
	return reply{500, wrap(faultAction, relatesTo, body)}
}

func created(r request, shell, owner string) reply {
	return reply{200, wrap(nsTransfer+"/CreateResponse", r.messageID,
		`<x:ResourceCreated><a:Address>http://simulated/wsman</a:Address><a:ReferenceParameters><w:ResourceURI>`+resourceCmd+
			`</w:ResourceURI><w:SelectorSet><w:Selector Name="ShellId">`+shell+`</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>`+
			`<rsp:Shell><rsp:ShellId>`+shell+`</rsp:ShellId><rsp:ResourceUri>`+resourceCmd+`</rsp:ResourceUri><rsp:Owner>`+escape(owner)+
			`</rsp:Owner><rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>`)}
}

func commandStarted(r request, command string) reply {
	return reply{200, wrap(nsShell+"/CommandResponse", r.messageID, `<rsp:CommandResponse><rsp:CommandId>`+command+`</rsp:CommandId></rsp:CommandResponse>`)}
}

func received(r request, command string, stdout, stderr []byte, done bool, code int) reply {
	body := `<rsp:ReceiveResponse>`
	for _, s := range []struct {
		name    string
		content []byte
	}{{"stdout", stdout}, {"stderr", stderr}} {
		if len(s.content) > 0 {
			body += `<rsp:Stream Name="` + s.name + `" CommandId="` + command + `">` + base64.StdEncoding.EncodeToString(s.content) + `</rsp:Stream>`
		}
		if done {
			body += `<rsp:Stream Name="` + s.name + `" CommandId="` + command + `" End="true"></rsp:Stream>`
		}
	}
	if done {
		body += `<rsp:CommandState CommandId="` + command + `" State="` + nsShell + `/CommandState/Done"><rsp:ExitCode>` + fmt.Sprint(uint32(code)) + `</rsp:ExitCode></rsp:CommandState>`
	} else {
		body += `<rsp:CommandState CommandId="` + command + `" State="` + nsShell + `/CommandState/Running"/>`
	}
	return reply{200, wrap(nsShell+"/ReceiveResponse", r.messageID, body+`</rsp:ReceiveResponse>`)}
}

func plain(r request, action, body string) reply {
	return reply{200, wrap(action, r.messageID, body)}
}
