package rfc2136

import (
	"context"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"slipway/orchestrator"
)

// markLabel is the label under which a record's mark stands, markText what it says before the machine's id.
const (
	markLabel = "_slipway."
	markText  = "machine="
)

// record is one resource record with its mark.
type record struct {
	zone string // with the final dot
	rr   dns.RR
	mark *dns.TXT
}

// records are the machine's, forward first.
func records(s server, machine string, r orchestrator.NameRecord) []record {
	name := dns.Fqdn(r.Name)
	header := func(name string, typ uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: s.ttl}
	}
	mark := func(name string) *dns.TXT {
		return &dns.TXT{Hdr: header(markLabel+name, dns.TypeTXT), Txt: []string{markText + machine}}
	}
	var forward dns.RR = &dns.A{Hdr: header(name, dns.TypeA), A: r.Address.AsSlice()}
	if r.Address.Is6() {
		forward = &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: r.Address.AsSlice()}
	}
	all := []record{{dns.Fqdn(r.Zone), forward, mark(name)}}
	if r.Pointer != "" {
		pointer := dns.Fqdn(r.Pointer)
		all = append(all, record{dns.Fqdn(r.ReverseZone), &dns.PTR{Hdr: header(pointer, dns.TypePTR), Ptr: name}, mark(pointer)})
	}
	return all
}

func (r record) name() string { return strings.TrimSuffix(r.rr.Header().Name, ".") }

// EnsureName implements orchestrator.Names.
func (c *Client) EnsureName(ctx context.Context, machine string, r orchestrator.NameRecord) error {
	const op = "dns.EnsureName"
	s, err := c.server(op, r.Pool)
	if err != nil {
		return err
	}
	for _, one := range records(s, machine, r) {
		if err := c.ensure(ctx, op, s, one); err != nil {
			return err
		}
	}
	return nil
}

// ensure tries what may be the case, one after the other, and lets the server decide: nothing is there; it is ours; it is ours and somebody
// took the record from beside its mark.
func (c *Client) ensure(ctx context.Context, op string, s server, r record) error {
	for _, try := range []func(*dns.Msg){
		func(m *dns.Msg) { m.NameNotUsed([]dns.RR{r.rr, r.mark}); m.Insert([]dns.RR{r.rr, r.mark}) },
		func(m *dns.Msg) { m.Used([]dns.RR{dns.Copy(r.rr), dns.Copy(r.mark)}) },
		func(m *dns.Msg) {
			m.NameNotUsed([]dns.RR{r.rr})
			m.Used([]dns.RR{dns.Copy(r.mark)})
			m.Insert([]dns.RR{r.rr})
		},
	} {
		if done, err := c.update(ctx, op, s, r.zone, try); done || err != nil {
			return err
		}
	}
	found, err := c.look(ctx, op, s, r)
	switch {
	case err != nil:
		return err
	case found.text == "":
		return orchestrator.Errorf(op, orchestrator.Conflict, "%s was changed by somebody else just now", r.name())
	default:
		return orchestrator.Errorf(op, orchestrator.Permanent, "%s is not this machine's and is left as it is: it has %s: %w", r.name(), found.text, orchestrator.ErrNameTaken)
	}
}

// update sends one; done is false when its prerequisites do not hold.
func (c *Client) update(ctx context.Context, op string, s server, zone string, fill func(*dns.Msg)) (done bool, err error) {
	m := new(dns.Msg)
	m.SetUpdate(zone)
	fill(m)
	answer, err := c.exchange(ctx, op, s, m)
	if err != nil {
		return false, err
	}
	return answer.Rcode == dns.RcodeSuccess, nil
}

// RemoveName implements orchestrator.Names.
func (c *Client) RemoveName(ctx context.Context, machine string, r orchestrator.NameRecord) error {
	const op = "dns.RemoveName"
	s, err := c.server(op, r.Pool)
	if err != nil {
		return err
	}
	for _, one := range slices.Backward(records(s, machine, r)) {
		// The record goes by its value: another one that somebody put beside the mark stays, and the mark goes.
		_, err := c.update(ctx, op, s, one.zone, func(m *dns.Msg) {
			m.Used([]dns.RR{dns.Copy(one.mark)})
			m.Remove([]dns.RR{dns.Copy(one.rr), dns.Copy(one.mark)})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ObserveName implements orchestrator.Names.
func (c *Client) ObserveName(ctx context.Context, machine string, r orchestrator.NameRecord) (orchestrator.NameState, error) {
	const op = "dns.ObserveName"
	s, err := c.server(op, r.Pool)
	if err != nil {
		return orchestrator.NameState{}, err
	}
	state := orchestrator.NameState{Whole: true}
	for _, one := range records(s, machine, r) {
		found, err := c.look(ctx, op, s, one)
		if err != nil {
			return orchestrator.NameState{}, err
		}
		state.Whole = state.Whole && found.marked && found.held
		state.Left = state.Left || found.marked
	}
	return state, nil
}

// found is what a record's name and its mark's show.
type found struct {
	marked, held bool   // the mark, and the record alone, are there
	text         string // what is there, for people
}

func (c *Client) look(ctx context.Context, op string, s server, r record) (f found, err error) {
	var texts []string
	for i, want := range []dns.RR{r.rr, r.mark} {
		answers, err := c.query(ctx, op, s, r.zone, want.Header().Name, want.Header().Rrtype)
		if err != nil {
			return f, err
		}
		for _, rr := range answers {
			texts = append(texts, strings.Join(strings.Fields(rr.String())[3:], " "))
		}
		there := len(answers) == 1 && dns.IsDuplicate(answers[0], want)
		if i == 0 {
			f.held = there
		} else {
			f.marked = there
		}
	}
	f.text = strings.Join(texts, ", ")
	return f, nil
}

// query asks the server for what it answers itself.
func (c *Client) query(ctx context.Context, op string, s server, zone, name string, typ uint16) ([]dns.RR, error) {
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	m.RecursionDesired = false
	answer, err := c.exchange(ctx, op, s, m)
	if err != nil {
		return nil, err
	}
	if !answer.Authoritative {
		return nil, orchestrator.Errorf(op, orchestrator.Permanent, "name server %s does not answer for zone %s: name the zone's primary", s.address, strings.TrimSuffix(zone, "."))
	}
	if len(answer.Answer) > maxAnswers {
		return nil, orchestrator.Errorf(op, orchestrator.Permanent, "name server %s has %d records for %s", s.address, len(answer.Answer), name)
	}
	return answer.Answer, nil
}

// maxAnswers bounds what is compared and told.
const maxAnswers = 100

// machineOf reads a mark.
func machineOf(t *dns.TXT) (name, machine string, ok bool) {
	name, marked := strings.CutPrefix(strings.TrimSuffix(dns.CanonicalName(t.Hdr.Name), "."), markLabel)
	machine, said := strings.CutPrefix(strings.Join(t.Txt, ""), markText)
	return name, machine, marked && said
}

// Try sends an update that changes nothing: whether the server has the zone, answers for it, and lets the key change it.
func (c *Client) Try(ctx context.Context, pool, zone string) error {
	const op = "dns.Try"
	s, err := c.server(op, pool)
	if err != nil {
		return err
	}
	done, err := c.update(ctx, op, s, dns.Fqdn(zone), func(m *dns.Msg) {
		m.RRsetUsed([]dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: dns.Fqdn(zone), Rrtype: dns.TypeSOA}}})
	})
	if err == nil && !done {
		err = orchestrator.Errorf(op, orchestrator.Permanent, "name server %s has no zone %s", s.address, zone)
	}
	if err != nil {
		return err
	}
	_, err = c.query(ctx, op, s, zone, dns.Fqdn(zone), dns.TypeSOA)
	return err
}
