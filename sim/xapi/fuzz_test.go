package xapi

import (
	"bytes"
	"encoding/json"
	"testing"
)

// Whatever arrives, the parsers answer with a call or an error, and a value that was read can be written.
func FuzzCalls(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","method":"VM.get_all","params":["OpaqueRef:x",{"a":[1,2.5,null,true]}],"id":1}`))
	f.Add([]byte(`{"method":"x","params":{"a":"b"},"id":"c"}`))
	f.Add([]byte(`<?xml version='1.0'?><methodCall><methodName>a.b</methodName><params><param><value><struct><member><name>k</name><value><i4>1</i4></value></member></struct></value></param></params></methodCall>`))
	f.Add([]byte(`<methodCall><methodName>a</methodName><params><param><value><array><data><value>x</value><value><nil/></value></data></array></value></param></params></methodCall>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if r, err := parseJSON(body); err == nil {
			if out := answerJSON(r, r.params, nil); !json.Valid(out) {
				t.Errorf("not JSON: %q", out)
			}
			answerJSON(r, nil, expected("string", r.params))
		}
		if r, err := parseXML(body); err == nil {
			var b bytes.Buffer
			writeXML(&b, r.params)
		}
	})
}

func FuzzQuery(f *testing.F) {
	model, err := loadDatamodel()
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{`field "name__label" = "x"`, `true`, `not (field "uuid" = "a" or false) and true`, `((((`, `field "bogus" = "x"`, `"a" = 'b'`} {
		f.Add(text)
	}
	db := newDatabase(model, 1)
	vm := db.create("VM", map[string]any{"name_label": "x"})
	f.Fuzz(func(_ *testing.T, text string) {
		if q, err := parseQuery(vm.class, text); err == nil {
			q(vm)
		}
	})
}

func TestQuery(t *testing.T) {
	model, err := loadDatamodel()
	if err != nil {
		t.Fatal(err)
	}
	vm := newDatabase(model, 1).create("VM", map[string]any{"name_label": "it's \"x\"", "is_a_template": true, "VCPUs_max": int64(2), "power_state": Halted})
	for text, want := range map[string]bool{
		`true`:                                  true,
		`false`:                                 false,
		`field "is_a_template" = "true"`:        true,
		`field "VCPUs__max" = "2"`:              true,
		`field "power_state" = "Running"`:       false,
		`not (field "power_state" = "Running")`: true,
		`field "power_state" = "Halted" and field "is_a_template" = "false"`: false,
		`field "power_state" = "Running" or field "is_a_template" = "true"`:  true,
	} {
		q, err := parseQuery(vm.class, text)
		if err != nil || q(vm) != want {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
	for _, bad := range []string{`field "name_label" = "x"`, `field "bogus" = "x"`, `field "uuid"`, `true true`, ``, `"a`} {
		if _, err := parseQuery(vm.class, bad); err == nil {
			t.Errorf("%s: taken", bad)
		}
	}
}
