package carrier

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"slipway/workers/appliance/apply"
)

func surveyed(t *testing.T, s apply.Survey) (apply.Answer, error) {
	t.Helper()
	body, err := json.Marshal(apply.Answer{Code: apply.Surveyed, Survey: &s})
	if err != nil {
		t.Fatal(err)
	}
	return readAnswer(strings.NewReader(string(body)), maxLive)
}

func TestSurveyOfAHostileAppliance(t *testing.T) {
	wild := "a\x1b[2J\nb" + strings.Repeat("ü", apply.MaxText)
	place := apply.Place{File: wild, Line: 3}
	one := netip.MustParseAddr("10.0.0.1")
	got, err := surveyed(t, apply.Survey{
		Files: []string{wild}, Notes: []string{wild}, Hosts: []apply.SurveyedHost{{Place: place, Name: wild, MAC: wild, Addresses: []netip.Addr{one}}},
		Rules:    []apply.SurveyedRule{{Table: wild, Chain: wild, Text: wild, Target: wild, Prefixes: []netip.Prefix{netip.PrefixFrom(one, 32)}, To: []apply.SurveyedRange{{First: one, Last: one}}}},
		Consoles: []apply.SurveyedConsole{{Place: place, VM: wild, Pool: wild, Port: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(got.Survey)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(text); strings.Contains(s, `\u001b`) || strings.Contains(s, `\n`) || len(s) > 12*(apply.MaxText+100) {
		t.Errorf("%d bytes: %s", len(s), s)
	}
	for name, s := range map[string]apply.Survey{
		"a negative line": {Hosts: []apply.SurveyedHost{{Place: apply.Place{Line: -1}}}},
		"no address":      {Ranges: []apply.SurveyedRange{{First: one}}},
		"no prefix":       {Subnets: []apply.SurveyedSubnet{{}}},
		"a zone":          {Hosts: []apply.SurveyedHost{{Addresses: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}}}},
		"too many notes":  {Notes: make([]string, apply.MaxNotes+1)},
		"too many hosts":  {Hosts: make([]apply.SurveyedHost, apply.MaxSurvey+1)},
		"less than none":  {Omitted: -1},
	} {
		if _, err := surveyed(t, s); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for _, text := range []string{`{"code":"surveyed"}`, `{"code":"applied","survey":{}}`} {
		if _, err := readAnswer(strings.NewReader(text), maxLive); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}

// FuzzSurvey: what an appliance says of its surroundings is refused, or is bounded and drives no terminal.
func FuzzSurvey(f *testing.F) {
	f.Add(`{"code":"surveyed","survey":{"hosts":[{"file":"/a","line":1,"name":"x","mac":"02:00:00:00:00:01","addresses":["10.0.0.1"]}]}}`)
	f.Add(`{"code":"surveyed","survey":{"subnets":[{"file":"","line":0,"prefix":"10.0.0.0/8"}],"ranges":[{"file":"","line":0,"first":"","last":"10.0.0.1"}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := readAnswer(strings.NewReader(text), maxLive)
		if err != nil || a.Survey == nil {
			return
		}
		for _, h := range a.Survey.Hosts {
			if len(h.Name) > apply.MaxText || h.Line < 0 || strings.ContainsFunc(h.Name+h.File, func(r rune) bool { return r < ' ' }) {
				t.Errorf("%+v", h)
			}
		}
		for _, r := range a.Survey.Ranges {
			if !r.First.IsValid() || !r.Last.IsValid() {
				t.Errorf("%+v", r)
			}
		}
	})
}
