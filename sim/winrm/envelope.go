package winrm

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Namespaces and actions of MS-WSMV.
const (
	nsSoap       = "http://www.w3.org/2003/05/soap-envelope"
	nsAddressing = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
	nsWSMan      = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
	nsShell      = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
	nsFault      = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
	nsTransfer   = "http://schemas.xmlsoap.org/ws/2004/09/transfer"

	resourceCmd = nsShell + "/cmd"

	actionCreate  = nsTransfer + "/Create"
	actionDelete  = nsTransfer + "/Delete"
	actionCommand = nsShell + "/Command"
	actionSend    = nsShell + "/Send"
	actionReceive = nsShell + "/Receive"
	actionSignal  = nsShell + "/Signal"
)

// maxDepth bounds the nesting of elements; a shell message has six levels.
const maxDepth = 32

// request is one message of a client.
type request struct {
	action    string
	messageID string
	resource  string
	shell     string // selector ShellId
	timeout   time.Duration
	options   map[string]string

	command   string   // Command
	arguments []string // Command
	commandID string   // Send, Receive, Signal
	signal    string   // Signal: the code
	stdin     []byte   // Send
	end       bool     // Send: nothing follows
	streams   string   // Receive: those desired
}

type envelope struct {
	XMLName xml.Name `xml:"http://www.w3.org/2003/05/soap-envelope Envelope"`
	Header  *struct {
		Action    string `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing Action"`
		MessageID string `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing MessageID"`
		Resource  string `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd ResourceURI"`
		Timeout   string `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd OperationTimeout"`
		Selectors []struct {
			Name  string `xml:"Name,attr"`
			Value string `xml:",chardata"`
		} `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd SelectorSet>Selector"`
		Options []struct {
			Name  string `xml:"Name,attr"`
			Value string `xml:",chardata"`
		} `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd OptionSet>Option"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Header"`
	Body *struct {
		CommandLine *struct {
			Command   string   `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Command"`
			Arguments []string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Arguments"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell CommandLine"`
		Receive *struct {
			Desired struct {
				CommandID string `xml:"CommandId,attr"`
				Names     string `xml:",chardata"`
			} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell DesiredStream"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Receive"`
		Send *struct {
			Streams []struct {
				Name      string `xml:"Name,attr"`
				CommandID string `xml:"CommandId,attr"`
				End       string `xml:"End,attr"`
				Value     string `xml:",chardata"`
			} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Stream"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Send"`
		Signal *struct {
			CommandID string `xml:"CommandId,attr"`
			Code      string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Code"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Signal"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Body"`
}

// parseRequest reads a message. Clients write the same text in different ways (CDATA, entities, other prefixes): an XML parser with
// namespaces sees no difference.
func parseRequest(text []byte) (request, error) {
	if err := checkDepth(text); err != nil {
		return request{}, err
	}
	var e envelope
	if err := xml.Unmarshal(text, &e); err != nil {
		return request{}, fmt.Errorf("no SOAP envelope: %w", err)
	}
	if e.Header == nil || e.Body == nil {
		return request{}, errors.New("the envelope has no header or no body")
	}
	r := request{
		action: strings.TrimSpace(e.Header.Action), messageID: strings.TrimSpace(e.Header.MessageID),
		resource: strings.TrimSpace(e.Header.Resource), timeout: time.Minute, options: map[string]string{},
	}
	for _, s := range e.Header.Selectors {
		if s.Name == "ShellId" {
			r.shell = strings.TrimSpace(s.Value)
		}
	}
	for _, o := range e.Header.Options {
		r.options[o.Name] = strings.TrimSpace(o.Value)
	}
	if e.Header.Timeout != "" {
		var err error
		if r.timeout, err = parseDuration(strings.TrimSpace(e.Header.Timeout)); err != nil {
			return request{}, err
		}
	}
	switch {
	case r.messageID == "":
		return request{}, errors.New("the header has no MessageID")
	case r.action == "":
		return request{}, errors.New("the header has no Action")
	}
	return r, r.readBody(&e)
}

func (r *request) readBody(e *envelope) error {
	body := e.Body
	switch r.action {
	case actionCommand:
		if body.CommandLine == nil || body.CommandLine.Command == "" {
			return errors.New("the message has no CommandLine")
		}
		r.command, r.arguments = body.CommandLine.Command, body.CommandLine.Arguments
	case actionReceive:
		if body.Receive == nil || body.Receive.Desired.CommandID == "" {
			return errors.New("the message has no DesiredStream")
		}
		r.commandID, r.streams = body.Receive.Desired.CommandID, body.Receive.Desired.Names
	case actionSignal:
		if body.Signal == nil || body.Signal.CommandID == "" {
			return errors.New("the message has no Signal")
		}
		r.commandID, r.signal = body.Signal.CommandID, strings.TrimSpace(body.Signal.Code)
	case actionSend:
		if body.Send == nil || len(body.Send.Streams) == 0 {
			return errors.New("the message has no Stream")
		}
		for _, s := range body.Send.Streams {
			content, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s.Value))
			if err != nil || s.Name != "stdin" || (r.commandID != "" && r.commandID != s.CommandID) {
				return errors.New("a Stream is not base64, not stdin or of another command")
			}
			r.commandID = s.CommandID
			r.stdin = append(r.stdin, content...)
			r.end = r.end || s.End == "true" || s.End == "1"
		}
	}
	return nil
}

// checkDepth refuses nesting that no client writes, and document types.
func checkDepth(text []byte) error {
	decoder := xml.NewDecoder(bytes.NewReader(text))
	depth := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("no XML: %w", err)
		}
		switch token.(type) {
		case xml.StartElement:
			if depth++; depth > maxDepth {
				return fmt.Errorf("more than %d levels of elements", maxDepth)
			}
		case xml.EndElement:
			depth--
		case xml.Directive:
			return errors.New("a document type is not allowed")
		}
	}
}

// parseDuration reads an xs:duration of days to seconds, as clients write OperationTimeout ("PT60S", "PT1M30.5S").
func parseDuration(text string) (time.Duration, error) {
	bad := fmt.Errorf("OperationTimeout %.40q is no duration such as PT60S", text)
	rest, ok := strings.CutPrefix(text, "P")
	if !ok || rest == "" {
		return 0, bad
	}
	var sum time.Duration
	inTime := false
	for rest != "" {
		if r, ok := strings.CutPrefix(rest, "T"); ok && !inTime {
			rest, inTime = r, true
			continue
		}
		end := strings.IndexFunc(rest, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
		if end <= 0 {
			return 0, bad
		}
		n, err := strconv.ParseFloat(rest[:end], 64)
		if err != nil || n > 1e6 {
			return 0, bad
		}
		var unit time.Duration
		switch {
		case rest[end] == 'D' && !inTime:
			unit = 24 * time.Hour
		case rest[end] == 'H' && inTime:
			unit = time.Hour
		case rest[end] == 'M' && inTime:
			unit = time.Minute
		case rest[end] == 'S' && inTime:
			unit = time.Second
		default:
			return 0, bad
		}
		sum += time.Duration(n * float64(unit))
		rest = rest[end+1:]
		if sum > 24*time.Hour {
			return 0, bad
		}
	}
	return sum, nil
}
