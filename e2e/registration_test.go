package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/testenv"
	"slipway/internal/testnet"
	"slipway/internal/testserver"
)

// monitoring is a site's service in the manager's namespace: it keeps what it is told.
type monitoring struct {
	token string
	mu    sync.Mutex
	hosts map[string]map[string]string
}

func (m *monitoring) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := strings.TrimPrefix(r.URL.Path, "/hosts/")
	host, known := m.hosts[id]
	switch {
	case r.Header.Get("Authorization") != "Bearer "+m.token:
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodPut:
		var told map[string]string
		if err := json.NewDecoder(r.Body).Decode(&told); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		m.hosts[id] = told
	case !known:
		http.NotFound(w, r)
	case r.Method == http.MethodDelete:
		delete(m.hosts, id)
	default:
		_ = json.NewEncoder(w).Encode(host)
	}
}

func (m *monitoring) host(id string) map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hosts[id]
}

// monitor serves in the manager's namespace over TLS, and leaves its certificate in the site's directory.
func (s *site) monitor(at string) *monitoring {
	s.t.Helper()
	m := &monitoring{token: rand.Text(), hosts: map[string]map[string]string{}}
	server := httptest.NewUnstartedServer(m)
	_ = server.Listener.Close()
	var err error
	s.manager.Do(func() { server.Listener, err = net.Listen("tcp4", at) })
	if err != nil {
		s.t.Fatal(err)
	}
	server.StartTLS()
	s.t.Cleanup(server.Close)
	s.write("monitoring.token", m.token)
	s.write("monitoring.ca", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	return m
}

// register adds to the site's configuration where its machines are registered.
func (s *site) register(names *testserver.NameServer, reverse string) {
	s.t.Helper()
	s.write("dns.key", names.Key.Secret)
	path := filepath.Join(s.dir, "slipway.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := fmt.Sprintf(`    dns:
      zone: vm.example.net
      server: 127.0.0.1
      key: {name: slipway, secret: {file: dns.key}}
      reverse: [{prefix: %s, zone: %s}]
    console: [console]
`, s.pools[0].public, reverse)
	changed := strings.Replace(string(text), "    console: [console]\n", pool, 1)
	s.write("slipway.yaml", changed+"monitoring: {url: \"https://127.0.0.1:8443\", token: {file: monitoring.token}, ca_file: monitoring.ca}\n")
}

// An installed machine is in the DNS, forward and back, and in the site's monitoring; a name that another one has parks its run; and of a
// machine that was ordered away nothing is left in either.
func TestMachinesAreRegistered(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	s := newSite(t, siteConfig{pools: 1})
	first := s.pools[0].public.Addr().As4()
	reverse := fmt.Sprintf("%d.%d.in-addr.arpa", first[1], first[0])
	names := testserver.NewNameServer(t, nil, "vm.example.net", reverse)
	s.carry("tcp://"+names.Address, "127.0.0.1:53")
	monitoring := s.monitor("127.0.0.1:8443")
	s.register(names, reverse)
	w := s.serve("worker")

	// The standard library's resolver asks as anybody would.
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, names.Address)
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	resolves := func(name, address string) bool {
		found, err := resolver.LookupHost(ctx, name+".")
		back, backErr := resolver.LookupAddr(ctx, address)
		return err == nil && backErr == nil && len(found) == 1 && found[0] == address && len(back) == 1 && back[0] == name+"."
	}
	machine := func(name string) (m api.Machine) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.cli("worker", "-o", "json", "show", name)), &m); err != nil {
			t.Fatal(err)
		}
		return m
	}

	s.orderAll(w, 1)
	s.done(w, 1, time.Minute)
	one := machine("vm-0001")
	public := one.Placement.Public.String()
	if !resolves("vm-0001.vm.example.net", public) {
		t.Errorf("vm-0001 is not %s and back: %s", public, names.Log())
	}
	if host := monitoring.host(one.ID); host["address"] != public || host["hostname"] != "vm-0001.vm.example.net" {
		t.Errorf("monitoring knows %v", host)
	}
	if said := s.cli("worker", "names"); !strings.Contains(said, "2 names agree, 0 lines do not") {
		t.Error(said)
	}
	if said, err := s.manager.Run(ctx, s.program, "--config", filepath.Join(s.dir, "worker.yaml"), "check"); err != nil || !strings.Contains(said, "the key may update 2 zones") || !strings.Contains(said, "it answers") {
		t.Errorf("%v: %s", err, said)
	}

	// Another tenant's machine wants the first one's name.
	_, key := keyPair(t)
	if err := w.api.Post(ctx, "/v1/orders", with(with(install(2, key), "hostname", "vm-0001"), "tenant", "umbrella").json(t), &api.Accepted{}); err != nil {
		t.Fatal(err)
	}
	testnet.Until(t, time.Minute, "the second run to park", func() bool {
		runs := machine("vm-0002").Runs
		return len(runs) == 1 && runs[0].Status == "parked"
	})
	if run := machine("vm-0002").Runs[0]; run.Step != "register_dns" || run.Kind != "permanent" || !strings.Contains(run.Reason, "is not this machine's and is left as it is") {
		t.Errorf("parked at %s, %s: %s", run.Step, run.Kind, run.Reason)
	}
	s.cli("worker", "skip", "vm-0002", "--yes", "--reason", "the name stays with the first")
	s.done(w, 2, time.Minute)
	two := machine("vm-0002")
	if !resolves("vm-0001.vm.example.net", public) || monitoring.host(two.ID) == nil {
		t.Errorf("the first one's name, or the second one's host, is gone")
	}

	for i, m := range []api.Machine{two, one} {
		order := newOrder(fmt.Sprintf("away-%d", i), "slipway.order.uninstall", map[string]any{"tenant": m.Tenant, "machine": m.ID})
		if err := w.api.Post(ctx, "/v1/orders", order.json(t), &api.Accepted{}); err != nil {
			t.Fatal(err)
		}
		s.done(w, 3+i, time.Minute)
		if monitoring.host(m.ID) != nil {
			t.Errorf("monitoring still knows %s", m.Name)
		}
		if still := resolves("vm-0001.vm.example.net", public); still != (m.ID == two.ID) {
			t.Errorf("after %s went, the first one's name resolves: %t", m.Name, still)
		}
	}
	s.counted(0)
	if said := s.cli("worker", "names"); !strings.Contains(said, "0 names agree, 0 lines do not") {
		t.Error(said)
	}
	for _, secret := range []string{names.Key.Secret, "of-the-site"} {
		if strings.Contains(w.Output(), secret) {
			t.Error("a secret is in the log")
		}
	}
}
