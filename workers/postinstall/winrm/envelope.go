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

	"slipway/orchestrator"
)

// Namespaces of MS-WSMV.
const (
	nsSoap  = "http://www.w3.org/2003/05/soap-envelope"
	nsShell = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
	nsWSMan = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"

	stateDone = nsShell + "/CommandState/Done"
)

// codeTimedOut is ERROR_WSMAN_OPERATION_TIMEDOUT: there was nothing to receive within OperationTimeout. It means "ask again".
const codeTimedOut = 2150858793

// fault is the service's no.
type fault struct {
	code   uint64
	reason string
}

func (f *fault) Error() string {
	return fmt.Sprintf("WS-Management fault %d: %s", f.code, f.reason)
}

type answer struct {
	XMLName xml.Name `xml:"http://www.w3.org/2003/05/soap-envelope Envelope"`
	Body    *struct {
		Fault *struct {
			Reason string `xml:"http://www.w3.org/2003/05/soap-envelope Reason>Text"`
			Detail struct {
				WSMan *struct {
					Code string `xml:"Code,attr"`
				} `xml:"http://schemas.microsoft.com/wbem/wsman/1/wsmanfault WSManFault"`
			} `xml:"http://www.w3.org/2003/05/soap-envelope Detail"`
		} `xml:"http://www.w3.org/2003/05/soap-envelope Fault"`
		Created *struct {
			Reference struct {
				Selectors []struct {
					Name  string `xml:"Name,attr"`
					Value string `xml:",chardata"`
				} `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd SelectorSet>Selector"`
			} `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing ReferenceParameters"`
		} `xml:"http://schemas.xmlsoap.org/ws/2004/09/transfer ResourceCreated"`
		Command *struct {
			ID string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell CommandId"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell CommandResponse"`
		Received *struct {
			Streams []struct {
				Name    string `xml:"Name,attr"`
				Command string `xml:"CommandId,attr"`
				Value   string `xml:",chardata"`
			} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Stream"`
			State *struct {
				Command string  `xml:"CommandId,attr"`
				State   string  `xml:"State,attr"`
				Exit    *string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell ExitCode"`
			} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell CommandState"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell ReceiveResponse"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Body"`
}

// parseAnswer reads an envelope; a fault in it is the error.
func parseAnswer(text []byte) (*answer, error) {
	if err := checkXML(text); err != nil {
		return nil, err
	}
	a := new(answer)
	if err := xml.Unmarshal(text, a); err != nil {
		return nil, fmt.Errorf("the answer is no SOAP envelope: %w", err)
	}
	if a.Body == nil {
		return nil, errors.New("the answer has no body")
	}
	if f := a.Body.Fault; f != nil {
		no := &fault{reason: orchestrator.OneLine(f.Reason, maxWords)}
		if f.Detail.WSMan != nil {
			// A code that is no number stays 0, which is none of those that are decided by.
			no.code, _ = strconv.ParseUint(f.Detail.WSMan.Code, 10, 32)
		}
		return nil, no
	}
	return a, nil
}

// maxDepth bounds the nesting of elements; an answer has seven levels.
const maxDepth = 32

func checkXML(text []byte) error {
	decoder := xml.NewDecoder(bytes.NewReader(text))
	depth := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the answer is no XML: %w", err)
		}
		switch token.(type) {
		case xml.StartElement:
			if depth++; depth > maxDepth {
				return fmt.Errorf("the answer has more than %d levels of elements", maxDepth)
			}
		case xml.EndElement:
			depth--
		case xml.Directive:
			return errors.New("the answer has a document type")
		}
	}
}

// shellID reads the answer to Create.
func (a *answer) shellID() (string, error) {
	if a.Body.Created != nil {
		for _, s := range a.Body.Created.Reference.Selectors {
			if id := strings.TrimSpace(s.Value); s.Name == "ShellId" && plainID(id) {
				return id, nil
			}
		}
	}
	return "", errors.New("the answer names no shell")
}

// commandID reads the answer to Command.
func (a *answer) commandID() (string, error) {
	if a.Body.Command != nil {
		if id := strings.TrimSpace(a.Body.Command.ID); plainID(id) {
			return id, nil
		}
	}
	return "", errors.New("the answer names no command")
}

// plainID: ids go into our next messages, so they must be as Windows makes them.
func plainID(id string) bool {
	return id != "" && len(id) <= 64 && strings.Trim(id, "0123456789abcdefABCDEF-{}") == ""
}

// received is what one Receive brought.
type received struct {
	stdout, stderr []byte
	done           bool
	code           int
}

func (a *answer) received(command string) (received, error) {
	var r received
	if a.Body.Received == nil {
		return r, errors.New("the answer has no output")
	}
	for _, s := range a.Body.Received.Streams {
		if !names(s.Command, command) {
			return r, errOtherCommand
		}
		content, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s.Value), ""))
		if err != nil {
			return r, fmt.Errorf("stream %.20q is no base64: %w", s.Name, err)
		}
		switch s.Name {
		case "stdout":
			r.stdout = append(r.stdout, content...)
		case "stderr":
			r.stderr = append(r.stderr, content...)
		}
	}
	if s := a.Body.Received.State; s != nil && !names(s.Command, command) {
		return r, errOtherCommand
	} else if s != nil && s.State == stateDone {
		if s.Exit == nil {
			return r, errors.New("the command has ended without an exit code")
		}
		// Windows writes it as an unsigned number of 32 bits.
		code, err := strconv.ParseUint(strings.TrimSpace(*s.Exit), 10, 32)
		if err != nil {
			return r, fmt.Errorf("exit code %.20q is no number", *s.Exit)
		}
		r.done, r.code = true, int(int32(uint32(code)))
	}
	return r, nil
}

var errOtherCommand = errors.New("the answer is about another command than the one that was asked for")

// names tells whether an id in an answer is that of our command, or none at all.
func names(id, command string) bool { return id == "" || strings.EqualFold(id, command) }
