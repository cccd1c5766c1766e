package xapi

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// xmlDepth bounds the nesting of a call's parameters.
const xmlDepth = 32

// parseXML reads an XML-RPC call.
func parseXML(body []byte) (*request, error) {
	p := &xmlParser{dec: xml.NewDecoder(bytes.NewReader(body))}
	r, err := p.call()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("unexpected end of input")
		}
		return nil, fmt.Errorf("%w: Xmlm.Error(%q)", errMalformed, err.Error())
	}
	return r, nil
}

type xmlParser struct{ dec *xml.Decoder }

// next gives the next start or end element, and the text before it.
func (p *xmlParser) next() (xml.Token, string, error) {
	var text strings.Builder
	for {
		t, err := p.dec.Token()
		if err != nil {
			return nil, "", err
		}
		switch x := t.(type) {
		case xml.CharData:
			text.Write(x)
		case xml.StartElement, xml.EndElement:
			return t, text.String(), nil
		}
	}
}

func (p *xmlParser) call() (*request, error) {
	r := &request{}
	for {
		t, text, err := p.next()
		if err != nil {
			return nil, err
		}
		switch x := t.(type) {
		case xml.StartElement:
			if x.Name.Local == "value" {
				v, err := p.value(0)
				if err != nil {
					return nil, err
				}
				r.params = append(r.params, v)
			}
		case xml.EndElement:
			switch x.Name.Local {
			case "methodName":
				r.method = strings.TrimSpace(text)
			case "methodCall":
				if r.method == "" {
					return nil, errors.New("no methodName")
				}
				return r, nil
			}
		}
	}
}

// value reads what is inside <value> up to and with </value>.
func (p *xmlParser) value(depth int) (any, error) {
	if depth > xmlDepth {
		return nil, errors.New("nested too deeply")
	}
	t, text, err := p.next()
	if err != nil {
		return nil, err
	}
	start, ok := t.(xml.StartElement)
	if !ok { // a bare string
		return text, nil
	}
	var v any
	switch start.Name.Local {
	case "array":
		v, err = p.array(depth)
	case "struct":
		v, err = p.structure(depth)
	default:
		v, err = p.scalar(start.Name.Local)
	}
	if err != nil {
		return nil, err
	}
	return v, p.dec.Skip() // up to </value>
}

func (p *xmlParser) scalar(name string) (any, error) {
	t, text, err := p.next()
	if err != nil {
		return nil, err
	}
	if _, ok := t.(xml.EndElement); !ok {
		return nil, fmt.Errorf("element inside <%s>", name)
	}
	trimmed := strings.TrimSpace(text)
	switch name {
	case "string":
		return text, nil
	case "int", "i4", "i8":
		return strconv.ParseInt(trimmed, 10, 64)
	case "double":
		return strconv.ParseFloat(trimmed, 64)
	case "boolean":
		return trimmed == "1" || trimmed == "true", nil
	case "dateTime.iso8601":
		return date(trimmed), nil
	case "nil":
		return nil, nil
	default:
		return nil, fmt.Errorf("unknown type <%s>", name)
	}
}

func (p *xmlParser) array(depth int) (any, error) {
	out := []any{}
	for {
		t, _, err := p.next()
		if err != nil {
			return nil, err
		}
		switch x := t.(type) {
		case xml.StartElement:
			if x.Name.Local == "value" {
				v, err := p.value(depth + 1)
				if err != nil {
					return nil, err
				}
				out = append(out, v)
			}
		case xml.EndElement:
			if x.Name.Local == "array" {
				return out, nil
			}
		}
	}
}

func (p *xmlParser) structure(depth int) (any, error) {
	out, name := map[string]any{}, ""
	for {
		t, text, err := p.next()
		if err != nil {
			return nil, err
		}
		switch x := t.(type) {
		case xml.StartElement:
			if x.Name.Local == "value" {
				if out[name], err = p.value(depth + 1); err != nil {
					return nil, err
				}
			}
		case xml.EndElement:
			switch x.Name.Local {
			case "name":
				name = text
			case "struct":
				return out, nil
			}
		}
	}
}

// answerXML writes the struct that every XenAPI call answers with: Status and Value or ErrorDescription.
func answerXML(r *request, result any, err error) []byte {
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0"?><methodResponse><params><param>`)
	var f *failure
	switch {
	case errors.As(err, &f):
		writeXML(&b, ordered{{"Status", "Failure"}, {"ErrorDescription", anySlice(append([]string{f.code}, f.params...))}})
	case r.method == "system.listMethods": // the one answer without a Status
		writeXML(&b, result)
	default:
		writeXML(&b, ordered{{"Status", "Success"}, {"Value", result}})
	}
	b.WriteString(`</param></params></methodResponse>`)
	return b.Bytes()
}

// xmlText is a value on its own, the form of a task's result.
func xmlText(v any) string {
	var b bytes.Buffer
	writeXML(&b, v)
	return b.String()
}

func writeXML(b *bytes.Buffer, v any) {
	b.WriteString("<value>")
	switch x := v.(type) {
	case nil:
	case string:
		writeXMLText(b, x)
	case date:
		b.WriteString("<dateTime.iso8601>" + string(x) + "</dateTime.iso8601>")
	case int64: // 64 bits do not fit XML-RPC's int, so they travel as text
		b.WriteString(strconv.FormatInt(x, 10))
	case count:
		b.WriteString("<i4>" + strconv.FormatInt(int64(x), 10) + "</i4>")
	case float64:
		b.WriteString("<double>" + strconv.FormatFloat(x, 'f', -1, 64) + "</double>")
	case bool:
		if x {
			b.WriteString("<boolean>1</boolean>")
		} else {
			b.WriteString("<boolean>0</boolean>")
		}
	case []any:
		b.WriteString("<array><data>")
		for _, item := range x {
			writeXML(b, item)
		}
		b.WriteString("</data></array>")
	case map[string]any:
		b.WriteString("<struct>")
		for _, k := range slices.Sorted(maps.Keys(x)) {
			writeXMLMember(b, k, x[k])
		}
		b.WriteString("</struct>")
	case ordered:
		b.WriteString("<struct>")
		for _, p := range x {
			writeXMLMember(b, p.key, p.val)
		}
		b.WriteString("</struct>")
	case *record:
		b.WriteString("<struct>")
		for i, f := range x.class.fields {
			writeXMLMember(b, f.name, x.vals[i])
		}
		b.WriteString("</struct>")
	}
	b.WriteString("</value>")
}

func writeXMLMember(b *bytes.Buffer, name string, v any) {
	b.WriteString("<member><name>")
	writeXMLText(b, name)
	b.WriteString("</name>")
	writeXML(b, v)
	b.WriteString("</member>")
}

func writeXMLText(b *bytes.Buffer, s string) {
	if !strings.ContainsAny(s, "<>&\"'\r\t\n") {
		b.WriteString(s)
		return
	}
	_ = xml.EscapeText(b, []byte(s)) // a bytes.Buffer does not fail
}
