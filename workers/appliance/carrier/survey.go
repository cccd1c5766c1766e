package carrier

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"slipway/workers/appliance/apply"
)

// checkSurvey bounds what an appliance says of its surroundings, and makes every word of it one printable line.
func checkSurvey(s *apply.Survey) error {
	things := len(s.Hosts) + len(s.Subnets) + len(s.Ranges) + len(s.Rules) + len(s.Consoles)
	if things > apply.MaxSurvey || len(s.Notes) > apply.MaxNotes || len(s.Files) > apply.MaxSurvey || s.Omitted < 0 {
		return errors.New("survey: too much of it, or a negative number")
	}
	c := surveyCheck{}
	c.words(s.Files)
	c.words(s.Notes)
	for i := range s.Hosts {
		h := &s.Hosts[i]
		c.place(&h.Place)
		c.word(&h.Name, &h.MAC)
		c.addresses(h.Addresses...)
	}
	for i := range s.Subnets {
		c.place(&s.Subnets[i].Place)
		c.prefixes(s.Subnets[i].Prefix)
	}
	for i := range s.Ranges {
		c.place(&s.Ranges[i].Place)
		c.addresses(s.Ranges[i].First, s.Ranges[i].Last)
	}
	for i := range s.Rules {
		r := &s.Rules[i]
		c.word(&r.Table, &r.Chain, &r.Text, &r.Target)
		c.prefixes(r.Prefixes...)
		for j := range r.To {
			c.place(&r.To[j].Place)
			c.addresses(r.To[j].First, r.To[j].Last)
		}
		c.lines(r.Number)
	}
	for i := range s.Consoles {
		v := &s.Consoles[i]
		c.place(&v.Place)
		c.word(&v.Pool, &v.VM)
	}
	return c.err
}

// surveyCheck keeps the first thing that is wrong.
type surveyCheck struct{ err error }

func (c *surveyCheck) word(words ...*string) {
	for _, w := range words {
		if *w = printable(*w); len(*w) > apply.MaxText {
			*w = strings.ToValidUTF8((*w)[:apply.MaxText], "")
		}
	}
}

func (c *surveyCheck) words(words []string) {
	for i := range words {
		c.word(&words[i])
	}
}

func (c *surveyCheck) place(p *apply.Place) {
	c.word(&p.File)
	c.lines(p.Line)
}

func (c *surveyCheck) lines(n int) {
	if n < 0 && c.err == nil {
		c.err = fmt.Errorf("survey: line %d", n)
	}
}

func (c *surveyCheck) addresses(all ...netip.Addr) {
	for _, a := range all {
		if (!a.IsValid() || a.Zone() != "") && c.err == nil {
			c.err = errors.New("survey: an address is none")
		}
	}
}

func (c *surveyCheck) prefixes(all ...netip.Prefix) {
	for _, p := range all {
		if !p.IsValid() && c.err == nil {
			c.err = errors.New("survey: a prefix is none")
		}
	}
}
