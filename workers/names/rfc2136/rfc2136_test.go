package rfc2136_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"slipway/internal/testserver"
	"slipway/orchestrator"
	"slipway/workers/names/namestest"
	"slipway/workers/names/rfc2136"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	zone       = "vm.example.net"
	reverse    = "100.51.198.in-addr.arpa"
	delegation = "64/26.113.0.203.in-addr.arpa"
	frozen     = "frozen.example.net"
	machine    = "30000000-0000-4000-8000-000000000001"
	another    = "30000000-0000-4000-8000-000000000002"
)

// site is a real bind9 with our client of it.
type site struct {
	*testing.T
	server *testserver.NameServer
	client *rfc2136.Client
}

func setup(t *testing.T) *site {
	t.Helper()
	n := testserver.NewNameServer(t, map[string]string{frozen: "allow-update { none; };"}, zone, reverse, delegation, frozen, "2.0.0.2.ip6.arpa")
	return &site{t, n, client(t, config(n))}
}

func config(n *testserver.NameServer) rfc2136.Config {
	return rfc2136.Config{Servers: map[string]rfc2136.Server{"pool-a": {
		Address: n.Address, KeyName: n.Key.Name, Secret: orchestrator.NewSecret(n.Key.Secret), TTL: time.Minute,
	}}}
}

func client(t *testing.T, c rfc2136.Config) *rfc2136.Client {
	t.Helper()
	client, err := rfc2136.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func record(name, address string) orchestrator.NameRecord {
	a := netip.MustParseAddr(address)
	full, _ := dns.ReverseAddr(address)
	r := orchestrator.NameRecord{Pool: "pool-a", Zone: zone, Name: name + "." + zone, Address: a, ReverseZone: reverse, Pointer: strings.TrimSuffix(full, ".")}
	if a.Is6() {
		r.ReverseZone = "2.0.0.2.ip6.arpa"
	}
	return r
}

// by hand is an administrator's update: past our client, with the server's own key.
func (s *site) byHand(zone string, fill func(*dns.Msg)) {
	s.Helper()
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(zone))
	fill(m)
	key := dns.Fqdn(s.server.Key.Name)
	m.SetTsig(key, dns.HmacSHA256, 300, time.Now().Unix())
	answer, _, err := (&dns.Client{Net: "tcp", TsigSecret: map[string]string{key: s.server.Key.Secret}}).ExchangeContext(s.Context(), m, s.server.Address)
	if err != nil || answer.Rcode != dns.RcodeSuccess {
		s.Fatalf("update by hand: %v %v", answer, err)
	}
}

func rr(t *testing.T, text string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *site) add(zone, text string) {
	s.Helper()
	s.byHand(zone, func(m *dns.Msg) { m.Insert([]dns.RR{rr(s.T, text)}) })
}

func (s *site) drop(zone, text string) {
	s.Helper()
	s.byHand(zone, func(m *dns.Msg) { m.Remove([]dns.RR{rr(s.T, text)}) })
}

// resolver is the standard library's, which knows nothing of ours.
func (s *site) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.server.Address)
	}}
}

// text is what a name has of a type, as anybody sees it.
func (s *site) text(name string, typ uint16) []string {
	s.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), typ)
	answer, _, err := new(dns.Client).ExchangeContext(s.Context(), m, s.server.Address)
	if err != nil {
		s.Fatal(err)
	}
	var all []string
	for _, rr := range answer.Answer {
		all = append(all, strings.Join(strings.Fields(rr.String())[4:], " "))
	}
	slices.Sort(all)
	return all
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *site) kind(err error, want orchestrator.Kind, says string) {
	s.Helper()
	if orchestrator.KindOf(err) != want || err != nil && !strings.Contains(err.Error(), says) {
		s.Errorf("%s: %v; want %s, %q", orchestrator.KindOf(err), err, want, says)
	}
}

func (s *site) observed(r orchestrator.NameRecord, want orchestrator.NameState) {
	s.Helper()
	if got, err := s.client.ObserveName(s.Context(), machine, r); err != nil || got != want {
		s.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

func TestSuite(t *testing.T) {
	s := setup(t)
	namestest.Exercise(t, namestest.World{
		Names: s.client, Pool: "pool-a", Zone: zone, ReverseZone: reverse,
		Put: func(t *testing.T, name, value string) {
			t.Helper()
			in, text := zone, fmt.Sprintf("%s. 60 IN A %s", name, value)
			if strings.HasSuffix(name, reverse) {
				in, text = reverse, fmt.Sprintf("%s. 60 IN PTR %s.", name, value)
			}
			s.byHand(in, func(m *dns.Msg) { m.RemoveName([]dns.RR{&dns.ANY{Hdr: dns.RR_Header{Name: name + "."}}}) })
			if value != "" {
				s.add(in, text)
			}
		},
		Holds: func(t *testing.T, name string) string {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var found []string
			var err error
			if address, isPointer := strings.CutSuffix(name, "."+reverse); isPointer {
				found, err = s.resolver().LookupAddr(ctx, "198.51.100."+address)
			} else {
				found, err = s.resolver().LookupHost(ctx, name+".")
			}
			var none *net.DNSError
			if errors.As(err, &none) && none.IsNotFound {
				return ""
			}
			if err != nil || len(found) != 1 {
				t.Fatalf("%s: %v, %v", name, found, err)
			}
			return strings.TrimSuffix(found[0], ".")
		},
	})
}

// What an administrator or the customer does at the machine's names between our visits.
func TestOthersAtOurNames(t *testing.T) {
	s := setup(t)
	whole, left := orchestrator.NameState{Whole: true, Left: true}, orchestrator.NameState{Left: true}
	markOf := func(r orchestrator.NameRecord) string {
		return fmt.Sprintf("_slipway.%s. 60 IN TXT \"machine=%s\"", r.Name, machine)
	}
	s.Run("records of other types stay and hide nothing", func(t *testing.T) {
		r := record("types", "198.51.100.20")
		s.must(s.client.EnsureName(t.Context(), machine, r))
		s.add(zone, r.Name+". 60 IN TXT \"v=spf1 -all\"")
		s.add(zone, r.Name+". 60 IN MX 10 mail.example.org.")
		s.observed(r, whole)
		s.must(s.client.EnsureName(t.Context(), machine, r))
		s.must(s.client.RemoveName(t.Context(), machine, r))
		s.observed(r, orchestrator.NameState{})
		if got := append(s.text(r.Name, dns.TypeTXT), s.text(r.Name, dns.TypeMX)...); len(got) != 2 || len(s.text(r.Name, dns.TypeA)) != 0 {
			t.Errorf("%v, %v", got, s.text(r.Name, dns.TypeA))
		}
	})
	s.Run("a record without its mark is not ours any more", func(t *testing.T) {
		r := record("unmarked", "198.51.100.21")
		s.must(s.client.EnsureName(t.Context(), machine, r))
		s.drop(zone, markOf(r))
		s.observed(r, left) // by the pointer's mark
		err := s.client.EnsureName(t.Context(), machine, r)
		if s.kind(err, orchestrator.Permanent, "is not this machine's and is left as it is: it has A 198.51.100.21"); !errors.Is(err, orchestrator.ErrNameTaken) {
			t.Errorf("%v is no ErrNameTaken", err)
		}
		s.must(s.client.RemoveName(t.Context(), machine, r))
		s.observed(r, orchestrator.NameState{})
		if diff := cmp.Diff([]string{"198.51.100.21"}, s.text(r.Name, dns.TypeA)); diff != "" {
			t.Error(diff)
		}
	})
	s.Run("a mark without its record gets it again", func(t *testing.T) {
		r := record("restored", "198.51.100.22")
		s.must(s.client.EnsureName(t.Context(), machine, r))
		s.drop(zone, r.Name+". 60 IN A 198.51.100.22")
		s.observed(r, left)
		s.must(s.client.EnsureName(t.Context(), machine, r))
		s.observed(r, whole)
	})
	s.Run("another address under our mark stays", func(t *testing.T) {
		r := record("moved", "198.51.100.23")
		s.must(s.client.EnsureName(t.Context(), machine, r))
		s.drop(zone, r.Name+". 60 IN A 198.51.100.23")
		s.add(zone, r.Name+". 60 IN A 203.0.113.7")
		s.observed(r, left)
		s.kind(s.client.EnsureName(t.Context(), machine, r), orchestrator.Permanent, "A 203.0.113.7")
		s.must(s.client.RemoveName(t.Context(), machine, r))
		s.observed(r, orchestrator.NameState{})
		if diff := cmp.Diff([]string{"203.0.113.7"}, s.text(r.Name, dns.TypeA)); diff != "" {
			t.Error(diff)
		}
	})
	s.Run("a second address beside ours", func(t *testing.T) {
		r := record("two", "198.51.100.24")
		s.must(s.client.EnsureName(t.Context(), machine, r))
		s.add(zone, r.Name+". 60 IN A 203.0.113.8")
		s.observed(r, left)
		s.must(s.client.RemoveName(t.Context(), machine, r))
		if diff := cmp.Diff([]string{"203.0.113.8"}, s.text(r.Name, dns.TypeA)); diff != "" {
			t.Error(diff)
		}
	})
	s.Run("a wildcard is nobody's name", func(t *testing.T) {
		s.add(zone, "*."+zone+". 60 IN A 203.0.113.99")
		r := record("wild", "198.51.100.25")
		s.observed(r, orchestrator.NameState{})
		s.must(s.client.EnsureName(t.Context(), machine, r))
		s.observed(r, whole)
		s.must(s.client.RemoveName(t.Context(), machine, r))
		s.observed(r, orchestrator.NameState{})
		s.drop(zone, "*."+zone+". 60 IN A 203.0.113.99")
	})
	s.Run("an alias is somebody else's", func(t *testing.T) {
		r := record("alias", "198.51.100.26")
		s.add(zone, r.Name+". 60 IN CNAME www.example.org.")
		s.kind(s.client.EnsureName(t.Context(), machine, r), orchestrator.Permanent, "CNAME www.example.org")
	})
}

func TestIPv6AndDelegation(t *testing.T) {
	s := setup(t)
	six, classless := record("six", "2002::1f"), record("classless", "203.0.113.70")
	classless.ReverseZone, classless.Pointer = delegation, "70."+delegation
	for _, r := range []orchestrator.NameRecord{six, classless} {
		s.must(s.client.EnsureName(t.Context(), machine, r))
		s.observed(r, orchestrator.NameState{Whole: true, Left: true})
		if diff := cmp.Diff([]string{r.Name + "."}, s.text(r.Pointer, dns.TypePTR)); diff != "" {
			t.Error(diff)
		}
		s.must(s.client.RemoveName(t.Context(), machine, r))
		s.observed(r, orchestrator.NameState{})
	}
}

// Of many machines that want one name at once exactly one has it.
func TestRaceForAName(t *testing.T) {
	s := setup(t)
	var racing sync.WaitGroup
	var mu sync.Mutex
	var winners []string
	for n := range 12 {
		id := fmt.Sprintf("30000000-0000-4000-8000-%012d", n)
		racing.Go(func() {
			r := record("race", fmt.Sprintf("198.51.100.%d", 30+n))
			err := s.client.EnsureName(t.Context(), id, r)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				winners = append(winners, r.Address.String())
			} else if orchestrator.KindOf(err) != orchestrator.Permanent {
				t.Error(err)
			}
		})
	}
	racing.Wait()
	if got := s.text("race."+zone, dns.TypeA); len(winners) != 1 || !slices.Equal(got, winners) {
		t.Errorf("%v have won, the server has %v", winners, got)
	}
}

// The server takes the update and its answer is lost: the next attempt finds its own work.
func TestLostAnswer(t *testing.T) {
	s := setup(t)
	lose := true
	c := config(s.server)
	c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil || !lose {
			return conn, err
		}
		return deaf{conn}, nil
	}
	s.client = client(t, c)
	r := record("lost", "198.51.100.60")
	s.kind(s.client.EnsureName(t.Context(), machine, r), orchestrator.Unknown, "")
	lose = false
	if len(s.text(r.Name, dns.TypeA)) != 1 {
		t.Fatal("the server has not taken it")
	}
	s.must(s.client.EnsureName(t.Context(), machine, r))
	s.observed(r, orchestrator.NameState{Whole: true, Left: true})
	lose = true
	s.kind(s.client.RemoveName(t.Context(), machine, r), orchestrator.Unknown, "")
	lose = false
	s.must(s.client.RemoveName(t.Context(), machine, r))
	s.observed(r, orchestrator.NameState{})
}

// deaf sends, and when the answer is there it loses it.
type deaf struct{ net.Conn }

func (d deaf) Read(p []byte) (int, error) {
	if _, err := d.Conn.Read(p); err != nil {
		return 0, err
	}
	return 0, io.ErrUnexpectedEOF
}

// What a real server says to what it does not like.
func TestKindsOfARealServer(t *testing.T) {
	s := setup(t)
	other := testserver.TSIG{Name: s.server.Key.Name, Secret: base64.StdEncoding.EncodeToString(make([]byte, 32))}
	unknown := testserver.TSIG{Name: "nobody", Secret: s.server.Key.Secret}
	for name, tt := range map[string]struct {
		change func(*rfc2136.Config, *rfc2136.Server, *orchestrator.NameRecord)
		ensure orchestrator.Kind
		says   string
		look   orchestrator.Kind // of ObserveName; "" works
	}{
		"another secret": {func(_ *rfc2136.Config, v *rfc2136.Server, _ *orchestrator.NameRecord) {
			v.Secret = orchestrator.NewSecret(other.Secret)
		},
			orchestrator.Permanent, "does not take key slipway (BADSIG)", orchestrator.Permanent},
		"an unknown key": {func(_ *rfc2136.Config, v *rfc2136.Server, _ *orchestrator.NameRecord) { v.KeyName = unknown.Name },
			orchestrator.Permanent, "does not take key nobody (BADKEY)", orchestrator.Permanent},
		"another algorithm": {func(_ *rfc2136.Config, v *rfc2136.Server, _ *orchestrator.NameRecord) { v.Algorithm = "hmac-sha512" },
			orchestrator.Permanent, "(BADKEY)", orchestrator.Permanent},
		"a key that may only ask": {func(_ *rfc2136.Config, v *rfc2136.Server, _ *orchestrator.NameRecord) {
			v.KeyName, v.Secret = s.server.Stranger.Name, orchestrator.NewSecret(s.server.Stranger.Secret)
		}, orchestrator.Permanent, "REFUSED for vm.example.net: let key stranger update", ""},
		"a clock that is wrong": {func(c *rfc2136.Config, _ *rfc2136.Server, _ *orchestrator.NameRecord) {
			c.Now = func() time.Time { return time.Now().Add(-time.Hour) }
		}, orchestrator.Transient, "BADTIME", orchestrator.Transient},
		"a zone that takes no updates": {func(_ *rfc2136.Config, _ *rfc2136.Server, r *orchestrator.NameRecord) {
			r.Zone, r.Name = frozen, "web."+frozen
		}, orchestrator.Permanent, "REFUSED", ""},
		"a zone of somebody else's": {func(_ *rfc2136.Config, _ *rfc2136.Server, r *orchestrator.NameRecord) {
			r.Zone, r.Name = "example.org", "web.example.org"
		}, orchestrator.Permanent, "NOTAUTH for example.org", orchestrator.Permanent},
		"a name outside its zone": {func(_ *rfc2136.Config, _ *rfc2136.Server, r *orchestrator.NameRecord) { r.Name = "web." + frozen },
			orchestrator.Permanent, "NOTZONE", ""},
		"a pool without a server": {func(_ *rfc2136.Config, _ *rfc2136.Server, r *orchestrator.NameRecord) { r.Pool = "pool-b" },
			orchestrator.Permanent, "pool-b has no name server", orchestrator.Permanent},
		"a port where nobody listens": {func(_ *rfc2136.Config, v *rfc2136.Server, _ *orchestrator.NameRecord) { v.Address = "127.0.0.1:1" },
			orchestrator.Transient, "refused", orchestrator.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			c, r := config(s.server), record("kinds", "198.51.100.70")
			server := c.Servers["pool-a"]
			tt.change(&c, &server, &r)
			c.Servers["pool-a"] = server
			client := client(t, c)
			one := &site{T: t}
			one.kind(client.EnsureName(t.Context(), machine, r), tt.ensure, tt.says)
			one.kind(client.RemoveName(t.Context(), machine, r), tt.ensure, "")
			_, err := client.ObserveName(t.Context(), machine, r)
			one.kind(err, tt.look, "")
			if err != nil && strings.Contains(err.Error(), server.Secret.Reveal()) {
				t.Error("the key is told")
			}
		})
	}
	if got := s.text("kinds."+zone, dns.TypeA); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// What a server may answer that bind9 does not, or that is no server at all. The answers are made by hand; only their kinds are judged.
func TestKindsOfOddAnswers(t *testing.T) {
	key := testserver.TSIG{Name: "slipway", Secret: base64.StdEncoding.EncodeToString(make([]byte, 32))}
	for name, tt := range map[string]struct {
		answer func(w dns.ResponseWriter, q, a *dns.Msg) // nil answers nothing
		update orchestrator.Kind
		query  orchestrator.Kind
	}{
		"SERVFAIL":                    {rcode(dns.RcodeServerFailure), orchestrator.Transient, orchestrator.Transient},
		"NOTIMP":                      {rcode(dns.RcodeNotImplemented), orchestrator.Permanent, orchestrator.Permanent},
		"FORMERR":                     {rcode(dns.RcodeFormatError), orchestrator.Permanent, orchestrator.Permanent},
		"unheard of":                  {rcode(14), orchestrator.Transient, orchestrator.Transient},
		"success without a signature": {func(w dns.ResponseWriter, _, a *dns.Msg) { _ = w.WriteMsg(a) }, orchestrator.Unknown, orchestrator.Transient},
		"success to another question": {func(w dns.ResponseWriter, q, a *dns.Msg) { a.Id++; rcode(0)(w, q, a) }, orchestrator.Unknown, orchestrator.Transient},
		"not authoritative":           {func(w dns.ResponseWriter, q, a *dns.Msg) { a.Authoritative = false; rcode(0)(w, q, a) }, "", orchestrator.Permanent},
		"no answer":                   {func(dns.ResponseWriter, *dns.Msg, *dns.Msg) {}, orchestrator.Unknown, orchestrator.Transient},
		"not DNS":                     {func(w dns.ResponseWriter, _, _ *dns.Msg) { _, _ = w.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, orchestrator.Unknown, orchestrator.Transient},
		"closed":                      {func(w dns.ResponseWriter, _, _ *dns.Msg) { _ = w.Close() }, orchestrator.Unknown, orchestrator.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := &dns.Server{Listener: listener, TsigSecret: map[string]string{"slipway.": key.Secret}, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
				a := new(dns.Msg).SetReply(q)
				a.Authoritative = true
				tt.answer(w, q, a)
			})}
			// The library's own look at a message would refuse an update before the handler sees it.
			server.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
			served := make(chan error, 1)
			go func() { served <- server.ActivateAndServe() }()
			defer func() {
				_ = listener.Close()
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				_ = server.ShutdownContext(ctx)
				<-served
			}()
			client := client(t, rfc2136.Config{Timeout: 300 * time.Millisecond, Servers: map[string]rfc2136.Server{
				"pool-a": {Address: listener.Addr().String(), KeyName: key.Name, Secret: orchestrator.NewSecret(key.Secret)},
			}})
			one := &site{T: t}
			r := record("odd", "198.51.100.80")
			one.kind(client.RemoveName(t.Context(), machine, r), tt.update, "")
			_, err = client.ObserveName(t.Context(), machine, r)
			one.kind(err, tt.query, "")
		})
	}
}

func rcode(code int) func(dns.ResponseWriter, *dns.Msg, *dns.Msg) {
	return func(w dns.ResponseWriter, q, a *dns.Msg) {
		a.Rcode = code
		a.SetTsig("slipway.", dns.HmacSHA256, 300, time.Now().Unix())
		_ = w.WriteMsg(a)
	}
}

func TestCanceled(t *testing.T) {
	s := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.kind(s.client.EnsureName(ctx, machine, record("canceled", "198.51.100.90")), orchestrator.Canceled, "")
}

func TestList(t *testing.T) {
	s := setup(t)
	r := record("listed", "198.51.100.91")
	s.must(s.client.EnsureName(t.Context(), machine, r))
	s.must(s.client.EnsureName(t.Context(), another, record("another", "198.51.100.92")))
	s.add(zone, "foreign."+zone+". 60 IN A 203.0.113.5")
	for in, want := range map[string][]rfc2136.Registered{
		zone: {
			{Zone: zone, Name: "another." + zone, Machine: another, Holds: []string{"198.51.100.92"}},
			{Zone: zone, Name: r.Name, Machine: machine, Holds: []string{"198.51.100.91"}},
		},
		reverse: {
			{Zone: reverse, Name: r.Pointer, Machine: machine, Holds: []string{r.Name}},
			{Zone: reverse, Name: "92." + reverse, Machine: another, Holds: []string{"another." + zone}},
		},
		delegation: nil,
	} {
		got, err := s.client.List(t.Context(), "pool-a", in)
		slices.SortFunc(got, func(a, b rfc2136.Registered) int { return strings.Compare(a.Name, b.Name) })
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	_, err := s.client.List(t.Context(), "pool-a", "example.org")
	s.kind(err, orchestrator.Permanent, "transfer of example.org")
	c := config(s.server)
	server := c.Servers["pool-a"]
	server.KeyName, server.Secret = s.server.Stranger.Name, orchestrator.NewSecret(s.server.Stranger.Secret)
	c.Servers["pool-a"] = server
	_, err = client(t, c).List(t.Context(), "pool-a", zone)
	s.kind(err, orchestrator.Permanent, "transfer of vm.example.net")
	s.server.Stop(t)
	_, err = s.client.List(t.Context(), "pool-a", zone)
	s.kind(err, orchestrator.Transient, "")
}

func TestConfigIsChecked(t *testing.T) {
	good := rfc2136.Server{Address: "192.0.2.53:53", KeyName: "slipway", Secret: orchestrator.NewSecret("c2VjcmV0LXNlY3JldC1zZWNyZXQ=")}
	for name, change := range map[string]func(*rfc2136.Server){
		"MD5":        func(s *rfc2136.Server) { s.Algorithm = "hmac-md5" },
		"no key":     func(s *rfc2136.Server) { s.KeyName = "" },
		"not base64": func(s *rfc2136.Server) { s.Secret = orchestrator.NewSecret("hunter2 hunter2 hunter2!") },
		"short":      func(s *rfc2136.Server) { s.Secret = orchestrator.NewSecret("c2VjcmV0") },
	} {
		bad := good
		change(&bad)
		if _, err := rfc2136.New(rfc2136.Config{Servers: map[string]rfc2136.Server{"pool-a": bad}}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := rfc2136.New(rfc2136.Config{Servers: map[string]rfc2136.Server{"pool-a": good}}); err != nil {
		t.Error(err)
	}
}
