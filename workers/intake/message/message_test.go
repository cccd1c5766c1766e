package message_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/orchestrator"
	"slipway/schemas"
	"slipway/workers/intake/message"
)

const examples = "../../../docs/examples"

const goodKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIM3iPYeUcyvKhL5gE7fMta8g76VmVqqlzYuF8sil6c26 ops@example"

// install is an order in which each field can be replaced by another JSON text; "" takes it away.
func install(change map[string]string) []byte {
	fields := map[string]string{
		"specversion": `"1.0"`, "id": `"4711"`, "source": `"panel.example"`, "type": `"slipway.order.install"`,
		"data.tenant": `"acme"`, "data.name": `"web-1"`, "data.image": `"debian-12"`,
		"data.plan":     `{"vcpus":2,"memory_mib":2048,"disk_gib":20}`,
		"data.firewall": `[{"protocol":"tcp","source":"0.0.0.0/0","ports":["443"]}]`,
		"data.ssh_keys": `["` + goodKey + `"]`,
	}
	for name, text := range change {
		fields[name] = text
	}
	var envelope, data []string
	for name, text := range fields {
		if text == "" {
			continue
		}
		if inner, ok := strings.CutPrefix(name, "data."); ok {
			data = append(data, fmt.Sprintf("%q:%s", inner, text))
		} else {
			envelope = append(envelope, fmt.Sprintf("%q:%s", name, text))
		}
	}
	return []byte("{" + strings.Join(append(envelope, `"data":{`+strings.Join(data, ",")+"}"), ",") + "}")
}

func TestParseInstall(t *testing.T) {
	got, err := message.ParseOrder(install(map[string]string{
		"time": `"2030-01-01T00:00:00Z"`, "traceparent": `"00-1-2-01"`,
		"data.hostname": `"web.example.org"`, "data.pool": `"pool-a"`, "data.deadline": `"2030-01-31T13:00:00+01:00"`,
		"data.firewall": `[{"protocol":"tcp","source":"198.51.100.7","ports":[22,"80","8000-8080"]},{"protocol":"icmp","source":"0.0.0.0/0"}]`,
		"data.plan":     `{"vcpus":2.0,"memory_mib":2048,"disk_gib":20}`,
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := orchestrator.Order{
		Source: "panel.example", ID: "4711", Type: orchestrator.OrderInstall, Tenant: "acme", Name: "web-1", Hostname: "web.example.org",
		Image: "debian-12", Plan: orchestrator.Plan{VCPUs: 2, MemoryMiB: 2048, DiskGiB: 20}, Pool: "pool-a",
		Firewall: []orchestrator.FirewallRule{
			{Protocol: "tcp", Source: netip.MustParsePrefix("198.51.100.7/32"), Ports: []orchestrator.PortRange{{First: 22, Last: 22}, {First: 80, Last: 80}, {First: 8000, Last: 8080}}},
			{Protocol: "icmp", Source: netip.MustParsePrefix("0.0.0.0/0")},
		},
		SSHKeys:  []string{goodKey},
		Deadline: time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC),
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestParseUninstall(t *testing.T) {
	const machine = "0b0e4f5c-6a5e-4b0f-9d6c-0f3f3f6f6a11"
	got, err := message.ParseOrder([]byte(`{"specversion":"1.0","id":"1","source":"p","type":"slipway.order.uninstall","data":{"tenant":"acme","machine":"` + machine + `"}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := orchestrator.Order{Source: "p", ID: "1", Type: orchestrator.OrderUninstall, Tenant: "acme", Machine: machine}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	quote := func(s string) string { text, _ := json.Marshal(s); return string(text) }
	rule := func(protocol, source, ports string) string {
		return fmt.Sprintf(`[{"protocol":%q,"source":%q,"ports":%s}]`, protocol, source, ports)
	}
	plan := func(memory string) map[string]string {
		return map[string]string{"data.plan": `{"vcpus":2,"memory_mib":` + memory + `,"disk_gib":20}`}
	}
	one := func(field, text string) []byte { return install(map[string]string{field: text}) }
	tests := map[string]struct {
		body  []byte
		field string // of the problem
		says  string // in its problem or fix
	}{
		"breaks out of a block":   {one("data.name", `"\"; }"`), "name", "a-z"},
		"a command substitution":  {one("data.hostname", `"$(reboot)"`), "hostname", "a-z"},
		"a line feed":             {one("data.name", `"web\nhost evil {"`), "name", "a-z"},
		"a line feed at the end":  {one("data.name", `"web\n"`), "name", "a-z"},
		"a comment":               {one("data.tenant", `"acme#"`), "tenant", "a-z"},
		"a null byte":             {one("data.name", `"web\u0000"`), "name", "a-z"},
		"64 characters":           {one("data.name", quote(strings.Repeat("a", 64))), "name", "63"},
		"64 in a hostname":        {one("data.hostname", quote("www."+strings.Repeat("a", 64)+".org")), "hostname", "63"},
		"look-alike letters":      {one("data.name", `"wеb"`), "name", "a-z"}, // a Cyrillic е
		"an upper case letter":    {one("data.name", `"Web"`), "name", "a-z"},
		"an image with a slash":   {one("data.image", `"../debian"`), "image", ""},
		"no memory":               {install(plan("0")), "plan.memory_mib", "256"},
		"2^63 MiB":                {install(plan("9223372036854775808")), "plan.memory_mib", "range"},
		"2^63-1 MiB":              {install(plan("9223372036854775807")), "plan.memory_mib", ""},
		"2^64+1024 MiB":           {install(plan("18446744073709552640")), "plan.memory_mib", ""},
		"an exponent":             {install(plan("1e999999999")), "plan.memory_mib", "plain"},
		"negative memory":         {install(plan("-1")), "plan.memory_mib", "256"},
		"a half":                  {install(plan("1024.5")), "plan.memory_mib", "integer"},
		"memory as text":          {install(plan(`"1024"`)), "plan.memory_mib", "integer"},
		"port 70000":              {one("data.firewall", rule("tcp", "0.0.0.0/0", `["70000"]`)), "firewall[0].ports[0]", "65535"},
		"port 70000 as a number":  {one("data.firewall", rule("tcp", "0.0.0.0/0", `[70000]`)), "firewall[0].ports[0]", "65535"},
		"port 0":                  {one("data.firewall", rule("tcp", "0.0.0.0/0", `["0"]`)), "firewall[0].ports[0]", "65535"},
		"a range that ends early": {one("data.firewall", rule("tcp", "0.0.0.0/0", `["90-80"]`)), "firewall[0].ports[0]", "8000-8080"},
		"another protocol":        {one("data.firewall", rule("tcp -j ACCEPT", "0.0.0.0/0", `["80"]`)), "firewall[0].protocol", "icmp"},
		"a source with a command": {one("data.firewall", rule("tcp", "0.0.0.0/0; reboot", `["80"]`)), "firewall[0].source", "203.0.113.0/24"},
		"an IPv6 source":          {one("data.firewall", rule("tcp", "2001:db8::/32", `["80"]`)), "firewall[0].source", "IPv4"},
		"bits beyond its length":  {one("data.firewall", rule("tcp", "10.0.0.1/8", `["80"]`)), "firewall[0].source", "10.0.0.0/8"},
		"ports of icmp":           {one("data.firewall", rule("icmp", "0.0.0.0/0", `["80"]`)), "firewall[0].ports", "icmp"},
		"tcp without ports":       {one("data.firewall", `[{"protocol":"tcp","source":"0.0.0.0/0"}]`), "firewall[0].ports", "443"},
		"a key that is no key":    {one("data.ssh_keys", `["ssh-ed25519 nonsense"]`), "ssh_keys[0]", "public key"},
		"a key with options":      {one("data.ssh_keys", quoteList(`command="reboot" `+goodKey)), "ssh_keys[0]", "options"},
		"two keys in one":         {one("data.ssh_keys", quoteList(goodKey+"\n"+goodKey)), "ssh_keys[0]", "one line"},
		"a private key":           {one("data.ssh_keys", quoteList("-----BEGIN OPENSSH PRIVATE KEY-----")), "ssh_keys[0]", "public one"},
		"a short RSA key":         {one("data.ssh_keys", quoteList(shortRSA)), "ssh_keys[0]", "2048"},
		"a doubled key":           {[]byte(strings.Replace(string(install(nil)), `"name":`, `"name":"other","name":`, 1)), "name", "twice"},
		"a doubled id":            {[]byte(strings.Replace(string(install(nil)), `"id":`, `"id":"1","id":`, 1)), "id", "twice"},
		"a doubled escaped key":   {[]byte(strings.Replace(string(install(nil)), `"name":`, `"n\u0061me":"other","name":`, 1)), "name", "twice"},
		"an unknown field":        {one("data.hostnam", `"x"`), "hostnam", "did you mean hostname?"},
		"an unknown inner field":  {one("data.plan", `{"vcpu":2,"vcpus":2,"memory_mib":2048,"disk_gib":20}`), "plan.vcpu", "did you mean vcpus?"},
		"another case":            {one("data.Name", `"x"`), "Name", "did you mean name?"},
		"nothing like it":         {one("data.frobnicate", `1`), "frobnicate", "known here: deadline"},
		"data in base64":          {one("data_base64", `"e30="`), "data_base64", "CloudEvents"},
		"no name":                 {one("data.name", ""), "name", "missing"},
		"no data":                 {[]byte(`{"specversion":"1.0","id":"1","source":"p","type":"slipway.order.install"}`), "data", "missing"},
		"data is a list":          {[]byte(`{"specversion":"1.0","id":"1","source":"p","type":"slipway.order.install","data":[]}`), "data", "an object"},
		"another type":            {one("type", `"slipway.order.instal"`), "type", "did you mean slipway.order.install?"},
		"an event":                {one("type", `"slipway.run.done"`), "type", "slipway.order.install"},
		"no type":                 {one("type", ""), "type", "missing"},
		"CloudEvents 0.3":         {one("specversion", `"0.3"`), "specversion", "1.0"},
		"an empty id":             {one("id", `""`), "id", ""},
		"a long id":               {one("id", quote(strings.Repeat("1", 201))), "id", "200"},
		"a blank in the source":   {one("source", `"my panel"`), "source", "space"},
		"a day as deadline":       {one("data.deadline", `"tomorrow"`), "deadline", "RFC 3339"},
		"nothing":                 {nil, "message", "JSON"},
		"no JSON":                 {[]byte("hello"), "message", "JSON"},
		"half of it":              {install(nil)[:50], "message", "JSON"},
		"two messages":            {append(install(nil), install(nil)...), "message", "after its end"},
		"a list":                  {[]byte("[]"), "message", "object"},
		"null":                    {[]byte("null"), "message", "object"},
		"not UTF-8":               {[]byte("{\"id\":\"\xff\"}"), "message", "UTF-8"},
		"2 MiB":                   {one("data.hostname", quote(strings.Repeat("a", 2<<20))), "message", "1048576"},
		"very deep":               {[]byte(strings.Repeat("[", 100000)), "message", "nested"},
		"33 keys":                 {one("data.ssh_keys", "["+strings.Repeat(`"`+goodKey+`",`, 32)+`"`+goodKey+`"]`), "ssh_keys", "32"},
		"uninstall of nothing":    {[]byte(`{"specversion":"1.0","id":"1","source":"p","type":"slipway.order.uninstall","data":{"tenant":"acme"}}`), "machine", "id"},
		"uninstall of no machine": {[]byte(`{"specversion":"1.0","id":"1","source":"p","type":"slipway.order.uninstall","data":{"tenant":"acme","machine":"'; drop"}}`), "machine", "id"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			order, err := message.ParseOrder(tt.body)
			var problems orchestrator.FieldErrors
			if !errors.As(err, &problems) {
				t.Fatalf("not refused: %v", err)
			}
			if order.Tenant != "" || order.Name != "" || order.SSHKeys != nil {
				t.Errorf("a refused order came back: %+v", order)
			}
			found := false
			for _, p := range problems {
				if p.Problem == "" || p.Fix == "" {
					t.Errorf("says too little: %+v", p)
				}
				found = found || p.Field == tt.field && strings.Contains(p.Problem+" "+p.Fix, tt.says)
			}
			if !found {
				t.Errorf("wanted a problem of %q that says %q, got:\n%v", tt.field, tt.says, err)
			}
			if len(err.Error()) > 16<<10 {
				t.Errorf("the refusal has %d bytes", len(err.Error()))
			}
		})
	}
}

func quoteList(line string) string {
	text, _ := json.Marshal([]string{line})
	return string(text)
}

// A 1024-bit RSA key, made for this test.
const shortRSA = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDQum7J28mwvHLJIhlZv66lawjodFBDjF883fhQpF+y/j6HU8HGPmbNq2NNgWuzQvvMY/DfltwnziABKx/6SQcD1Gsmy9dd/ozgoAtHocBX361LGSGQsJ8btVUk4kyrHQoJbYl/AXCpX+UM280NP2jimhDSyPRHLl9yoOQVdheBZw== old"

func TestARefusalNamesEverythingThatIsWrong(t *testing.T) {
	_, err := message.ParseOrder(install(map[string]string{
		"data.name": `"Web"`, "data.plan": `{"vcpus":0,"memory_mib":1,"disk_gib":20}`, "data.ssh_keys": `["x"]`,
	}))
	var problems orchestrator.FieldErrors
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	var fields []string
	for _, p := range problems {
		fields = append(fields, p.Field)
	}
	want := []string{"name", "plan.memory_mib", "plan.vcpus", "ssh_keys[0]"}
	if diff := cmp.Diff(want, fields, cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("each once, -want +got:\n%s\n%v", diff, err)
	}
}

func TestARefusedOrderSaysWhoSentIt(t *testing.T) {
	for name, tt := range map[string]struct {
		body string
		want orchestrator.Order
	}{
		"wrong data":     {`{"specversion":"1.0","id":"7","source":"p","type":"slipway.order.install","data":{}}`, orchestrator.Order{Source: "p", ID: "7", Type: orchestrator.OrderInstall}},
		"doubled source": {`{"specversion":"1.0","id":"7","source":"p","source":"q","type":"slipway.order.install","data":{}}`, orchestrator.Order{}},
		"doubled name":   {`{"specversion":"1.0","id":"7","source":"p","type":"slipway.order.install","data":{"name":"a","name":"b"}}`, orchestrator.Order{Source: "p", ID: "7", Type: orchestrator.OrderInstall}},
		"hostile id":     {`{"specversion":"1.0","id":"7\u001b[31m","source":"p","type":"slipway.order.install","data":{}}`, orchestrator.Order{Source: "p", Type: orchestrator.OrderInstall}},
	} {
		got, err := message.ParseOrder([]byte(tt.body))
		if err == nil {
			t.Errorf("%s: not refused", name)
		}
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestOrdersAreReadAsTheyWereWritten(t *testing.T) {
	for _, want := range []orchestrator.Order{
		{Source: "cli", ID: "1", Type: orchestrator.OrderInstall, Tenant: "acme", Name: "web", Image: "debian-12", Plan: orchestrator.Plan{VCPUs: 1, MemoryMiB: 512, DiskGiB: 5}},
		{
			Source: "cli", ID: "2", Type: orchestrator.OrderInstall, Tenant: "acme", Name: "web", Hostname: "w.example", Image: "debian-12", Pool: "p1",
			Plan:     orchestrator.Plan{VCPUs: 1, MemoryMiB: 512, DiskGiB: 5},
			Firewall: []orchestrator.FirewallRule{{Protocol: "udp", Source: netip.MustParsePrefix("10.0.0.0/8"), Ports: []orchestrator.PortRange{{First: 53, Last: 53}, {First: 1000, Last: 2000}}}},
			SSHKeys:  []string{goodKey}, Deadline: time.Date(2031, 2, 3, 4, 5, 6, 7000, time.UTC),
		},
		{Source: "cli", ID: "3", Type: orchestrator.OrderUninstall, Tenant: "acme", Name: "web"},
		{
			Source: "cli", ID: "4", Type: orchestrator.OrderConsole, Tenant: "acme", Name: "web", Viewer: "ann",
			ViewerFrom: netip.MustParseAddr("198.51.100.7"), TokenHash: orchestrator.PassHash{1, 31: 255},
		},
	} {
		m, err := message.EncodeOrder(want)
		if err != nil {
			t.Fatal(err)
		}
		if m.ID != want.ID || m.Type != string(want.Type) || m.ContentType != message.ContentType {
			t.Errorf("message %+v", m)
		}
		got, err := message.ParseOrder(m.Body)
		if err != nil {
			t.Fatalf("%s\n%v", m.Body, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
			t.Errorf("%s\n%s", m.Body, diff)
		}
	}
}

func TestAnInvalidOrderIsNotWritten(t *testing.T) {
	if _, err := message.EncodeOrder(orchestrator.Order{Type: orchestrator.OrderInstall}); err == nil {
		t.Error("an empty order was written")
	}
}

func event(typ, machine string, seq int64, data orchestrator.EventData) orchestrator.Event {
	data.Machine, data.Source, data.OrderID = machine, "panel.example", "4711"
	e := orchestrator.NewEvent(typ, time.Date(2030, 1, 1, 12, 0, 0, 0, time.FixedZone("", 3600)), data)
	e.Seq, e.ID = seq, 99
	return e
}

func TestEventsMatchTheirSchemas(t *testing.T) {
	const machine = "0b0e4f5c-6a5e-4b0f-9d6c-0f3f3f6f6a11"
	run := orchestrator.EventData{Run: "r", Tenant: "acme", Name: "web-1", Process: "install", State: "placed", Status: orchestrator.StatusRunning}
	with := func(change func(*orchestrator.EventData)) orchestrator.EventData { d := run; change(&d); return d }
	for typ, data := range map[string]orchestrator.EventData{
		orchestrator.EventAccepted: run,
		orchestrator.EventWaiting: with(func(d *orchestrator.EventData) {
			d.Step, d.Message, d.Status = "create_machine", "clone runs", orchestrator.StatusWaiting
		}),
		orchestrator.EventParked: with(func(d *orchestrator.EventData) {
			d.Step, d.Kind, d.Message, d.Status, d.Exits = "create_machine", orchestrator.Permanent, "no such template", orchestrator.StatusParked, []string{"retry", "cancel"}
		}),
		orchestrator.EventDone: with(func(d *orchestrator.EventData) {
			d.Status, d.State, d.Private, d.Public, d.HostKey, d.ConsolePort = orchestrator.StatusDone, "production_ready", "10.0.0.5", "203.0.113.5", "ssh-ed25519 AAAA", 5901
		}),
		orchestrator.EventCanceled: with(func(d *orchestrator.EventData) { d.Status = orchestrator.StatusCanceled }),
		orchestrator.EventStepDone: with(func(d *orchestrator.EventData) { d.Step, d.Outcome, d.Attempt = "place", "done", 1 }),
		orchestrator.EventStepFailed: with(func(d *orchestrator.EventData) {
			d.Step, d.Outcome, d.Kind, d.Message, d.Attempt = "place", "failed", orchestrator.Exhausted, "no address left", 1
		}),
		orchestrator.EventConsole: {
			Tenant: "acme", Name: "web-1", ConsoleURL: "https://console.example/m/" + machine + "/", ConsoleExpires: new(time.Date(2030, 1, 1, 12, 1, 0, 0, time.UTC)),
		},
		orchestrator.EventConflict: with(func(d *orchestrator.EventData) { *d = orchestrator.EventData{Fields: []string{"plan.vcpus"}} }),
	} {
		t.Run(typ, func(t *testing.T) {
			m, err := message.EncodeEvent("slipway/site-a", event(typ, machine, 7, data))
			if err != nil {
				t.Fatal(err)
			}
			if err := message.Check(typ, m.Body); err != nil {
				t.Errorf("%s\n%v", m.Body, err)
			}
			if m.Type != typ || m.Key != machine || m.ID != machine+"/7" {
				t.Errorf("message %+v", m)
			}
			e, back, err := message.ParseEvent(m.Body)
			if err != nil || e.Seq != 7 || e.Subject != machine || e.Source != "slipway/site-a" || !e.Time.Equal(time.Date(2030, 1, 1, 11, 0, 0, 0, time.UTC)) {
				t.Errorf("read back %+v, %v", e, err)
			}
			data.Machine, data.Source, data.OrderID = machine, "panel.example", "4711"
			if diff := cmp.Diff(data, back); diff != "" {
				t.Error(diff)
			}
		})
	}
	refused := event(orchestrator.EventRefused, "", 0, orchestrator.EventData{Errors: orchestrator.FieldErrors{{Field: "name", Problem: "is empty", Fix: "give one"}}})
	first, err := message.EncodeEvent("slipway", refused)
	if err != nil {
		t.Fatal(err)
	}
	if err := message.Check(orchestrator.EventRefused, first.Body); err != nil {
		t.Error(err)
	}
	if bytes.Contains(first.Body, []byte(`"seq"`)) || bytes.Contains(first.Body, []byte(`"subject"`)) {
		t.Errorf("an event without a machine has its attributes: %s", first.Body)
	}
	refused.ID = 100
	if again, err := message.EncodeEvent("slipway", refused); err != nil || again.ID != first.ID || again.Key != "" {
		t.Errorf("sent again it has another id: %s, %s, %v", again.ID, first.ID, err)
	}
}

func TestSchemasRefuseEventsThatLackSomething(t *testing.T) {
	m, err := message.EncodeEvent("slipway", event(orchestrator.EventParked, "m", 1, orchestrator.EventData{Run: "r"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := message.Check(orchestrator.EventParked, m.Body); err == nil || !strings.Contains(err.Error(), "kind: is missing") {
		t.Errorf("got %v", err)
	}
}

func TestEveryMessageHasASchema(t *testing.T) {
	for _, typ := range []string{
		string(orchestrator.OrderInstall), string(orchestrator.OrderUninstall),
		string(orchestrator.OrderReconfigure), string(orchestrator.OrderSuspend), string(orchestrator.OrderUnsuspend),
		orchestrator.EventReconfigured, orchestrator.EventSuspended, orchestrator.EventUnsuspended,
		orchestrator.EventAccepted, orchestrator.EventWaiting, orchestrator.EventParked, orchestrator.EventDone, orchestrator.EventCanceled,
		orchestrator.EventStepDone, orchestrator.EventStepFailed, orchestrator.EventConflict, orchestrator.EventRefused,
	} {
		if _, ok := schemas.Get(typ); !ok {
			t.Errorf("%s has none", typ)
		}
	}
	if _, ok := schemas.Get("slipway.nothing"); ok {
		t.Error("a schema of nothing")
	}
}

// Every example is named by its message's type, with an optional ".what" before the suffix.
func TestExamplesAreValid(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(examples, "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	seen := map[string]bool{}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			body, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var envelope struct{ Type string }
			if err := json.Unmarshal(body, &envelope); err != nil {
				t.Fatal(err)
			}
			seen[strings.TrimPrefix(envelope.Type, "slipway.")] = true
			if !strings.HasPrefix(filepath.Base(path), strings.TrimPrefix(envelope.Type, "slipway.")+".") {
				t.Errorf("holds a %s", envelope.Type)
			}
			if err := message.Check(envelope.Type, body); err != nil {
				t.Error(err)
			}
			if strings.HasPrefix(envelope.Type, "slipway.order.") && !strings.HasSuffix(envelope.Type, "conflict") && !strings.HasSuffix(envelope.Type, "refused") {
				if _, err := message.ParseOrder(body); err != nil {
					t.Error(err)
				}
				return
			}
			if _, _, err := message.ParseEvent(body); err != nil {
				t.Error(err)
			}
		})
	}
	for _, name := range schemas.Messages() {
		if !seen[name] {
			t.Errorf("there is no example of %s", name)
		}
	}
}

func TestTheDocumentNamesEveryMessageAndField(t *testing.T) {
	text, err := os.ReadFile("../../../docs/messages.md")
	if err != nil {
		t.Fatal(err)
	}
	says := func(word string) {
		t.Helper()
		if !strings.Contains(string(text), word) {
			t.Errorf("docs/messages.md does not name %s", word)
		}
	}
	for _, name := range schemas.Names() {
		if slices.Contains(schemas.Messages(), name) {
			says("`slipway." + name + "`")
		}
		body, _ := schemas.Get(name)
		var schema struct {
			Properties struct {
				Data struct{ Properties map[string]any }
			}
		}
		if err := json.Unmarshal(body, &schema); err != nil {
			t.Fatal(err)
		}
		for field := range schema.Properties.Data.Properties {
			if field == "plan" {
				field = "plan.vcpus"
			}
			says("`" + field + "`")
		}
	}
}

func FuzzParseOrder(f *testing.F) {
	f.Add(install(nil))
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"p","type":"slipway.order.uninstall","data":{"tenant":"acme","name":"web"}}`))
	f.Add(install(map[string]string{"data.name": `"\"; }"`}))
	f.Add([]byte(`{"type":"slipway.order.install","data":{"firewall":[{"ports":[1e9]}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		order, err := message.ParseOrder(body)
		if err != nil {
			var problems orchestrator.FieldErrors
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("refused without a field: %v", err)
			}
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) {
				t.Fatalf("the refusal has control characters: %q", err)
			}
			return
		}
		if err := order.Validate(); err != nil {
			t.Fatalf("parsed, but %v", err)
		}
		m, err := message.EncodeOrder(order)
		if err != nil {
			t.Fatal(err)
		}
		again, err := message.ParseOrder(m.Body)
		if err != nil {
			t.Fatalf("written and not read: %s\n%v", m.Body, err)
		}
		if differs := order.Differences(again); len(differs) > 0 {
			t.Fatalf("written and read, it differs in %v: %s", differs, m.Body)
		}
	})
}
