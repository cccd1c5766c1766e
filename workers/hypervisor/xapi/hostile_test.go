package xapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"slipway/internal/testenv"
	"slipway/orchestrator"
)

const someMachine = "88888888-0000-4000-8000-000000000001"

// endless writes the beginning of an answer, and then a text again and again until nobody reads or so many bytes are written.
func endless(begin, again string, most int) reply {
	return reply{raw: func(w http.ResponseWriter, _ *http.Request, id uint64) {
		if _, err := fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%d,"result":%s`, id, begin); err != nil {
			return
		}
		block := bytes.Repeat([]byte(again), 1+(64<<10)/len(again))
		for n := 0; n < most; n += len(block) {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}}
}

// many writes a map of so many records, each of them the same.
func many(n int, record string) reply {
	return reply{raw: func(w http.ResponseWriter, _ *http.Request, id uint64) {
		text := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"result":{`, id)
		for i := range n {
			text = append(append(append(strconv.AppendInt(append(text, `"OpaqueRef:`...), int64(i), 16), `":`...), record...), ',')
			if len(text) > 64<<10 {
				if _, err := w.Write(text); err != nil {
					return
				}
				text = text[:0]
			}
		}
		_, _ = w.Write(fmt.Appendf(text, `"OpaqueRef:last":%s}}`, record))
	}}
}

// zipped answers with a few kilobytes that would unpack into 64 MiB.
func zipped(t *testing.T) reply {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	block := make([]byte, 1<<20)
	for range 1 << 6 {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return reply{raw: func(w http.ResponseWriter, _ *http.Request, _ uint64) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed.Bytes())
	}}
}

// A pool that answers with far too much has its call end, with a reason that names the pool's member and the call, and takes no more memory
// than a large pool's honest answer does. The next call is answered.
func TestAnswersThatAreTooMuch(t *testing.T) {
	all := func(p *pool) error { _, err := p.vms(t.Context()); p.scans.work.Wait(); return err }
	one := func(p *pool) error { _, _, _, err := p.vm(t.Context(), someMachine); return err }
	start := func(p *pool) error { return p.client.Call(t.Context(), "VM.start", nil, Ref("OpaqueRef:vm")) }
	for name, tt := range map[string]struct {
		reply reply
		ask   func(*pool) error
		most  int64 // MiB
		kind  orchestrator.Kind
		says  string
	}{
		"records without end":     {endless(`{"OpaqueRef:a":{"name_label":"`, "a name that never ends ", 1<<30), all, 360, orchestrator.Transient, "longer than 67108864 bytes"},
		"100 MB about one VM":     {endless(`{"name_label":"`, "x", 100<<20), one, 32, orchestrator.Transient, "longer than 4194304 bytes"},
		"100 MB for a change":     {endless(`"`, "x", 100<<20), start, 32, orchestrator.Unknown, "longer than 4194304 bytes"},
		"a million VMs":           {many(1_000_000, `{"uuid":"u"}`), all, 300, orchestrator.Transient, "more than 65536 records"},
		"20 million disks":        {endless(`{"OpaqueRef:a":{"VBDs":[""`, `,""`, 60<<20), all, 260, orchestrator.Transient, "more values than"},
		"a few bytes that unpack": {zipped(t), all, 32, orchestrator.Transient, "no JSON-RPC"},
		"a header without end": {reply{raw: func(w http.ResponseWriter, _ *http.Request, _ uint64) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			block := strings.Repeat("X: y\r\n", 1<<10)
			for _, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"); err == nil; _, err = io.WriteString(conn, block) {
			}
		}}, start, 32, orchestrator.Unknown, "response headers exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			hostile := true
			m := newMember(t, func(string, []json.RawMessage) reply {
				if hostile {
					return tt.reply
				}
				return ok("8.3")
			})
			p := testPool(newClient(t, testConfig(m.URL)))
			var err error
			grown := testenv.Heap(t, func() { err = tt.ask(p) })
			if orchestrator.KindOf(err) != tt.kind || !strings.Contains(fmt.Sprint(err), tt.says) || !strings.Contains(fmt.Sprint(err), strings.TrimPrefix(m.URL, "http://")) {
				t.Errorf("kind %s: %v", orchestrator.KindOf(err), err)
			}
			if errors.Is(err, orchestrator.ErrNotFound) {
				t.Errorf("what it would not tell is taken for gone: %v", err)
			}
			clean(t, fmt.Sprint(err))
			if grown > tt.most*testenv.Mebibyte {
				t.Errorf("it took %d MiB, more than %d", grown/testenv.Mebibyte, tt.most)
			}
			t.Logf("%d MiB", grown/testenv.Mebibyte)
			hostile = false
			if err := p.client.Call(t.Context(), "host.get_software_version", new(string)); err != nil {
				t.Errorf("the next call: %v", err)
			}
		})
	}
}

// clean fails on what a terminal would act on.
func clean(t *testing.T, s string) {
	t.Helper()
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }) {
		t.Errorf("%.300q is not fit for a terminal", s)
	}
}

// A byte now and then does not keep a call alive: its time is over when it is over.
func TestAnswerThatDrips(t *testing.T) {
	m := newMember(t, always(reply{raw: func(w http.ResponseWriter, r *http.Request, _ uint64) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
				if _, err := io.WriteString(w, " "); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
			}
		}
	}}))
	cfg := testConfig(m.URL)
	cfg.CallTimeout = 2 * time.Second // the login is in it
	for method, want := range map[string]orchestrator.Kind{"VM.get_record": orchestrator.Away, "VM.start": orchestrator.Unknown} {
		err := newClient(t, cfg).Call(t.Context(), method, new(string))
		if orchestrator.KindOf(err) != want || !strings.Contains(fmt.Sprint(err), method) {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// lies are what may stand where something else should.
var lies = []string{`null`, `"x"`, `""`, `-1`, `9223372036854775807`, `1e400`, `true`, `[]`, `{}`, `[null]`, `{"a":null}`, `[[]]`, `"\u001b[2J\u202e\u0000\u009b"`, `{"\u001b[2J":"\u001b"}`, `["OpaqueRef:\u001b[2J"]`}

// Whatever stands in whichever field of whichever record, nothing panics, nothing counts below zero, what is told can be shown, and no machine is
// taken for gone because its record cannot be read.
func TestFieldsOfTheWrongType(t *testing.T) {
	var honest canned
	if err := json.Unmarshal(simulated(t), &honest); err != nil {
		t.Fatal(err)
	}
	const uuid = "99999999-0000-4000-8000-000000000001"
	vms := map[string]json.RawMessage{}
	if err := json.Unmarshal(honest["VM.get_all_records"], &vms); err != nil {
		t.Fatal(err)
	}
	ours := fmt.Sprintf(`{"uuid":%q,"name_label":"web-1","power_state":"Running","resident_on":"OpaqueRef:h","guest_metrics":"OpaqueRef:g","VBDs":["OpaqueRef:b"],"VIFs":["OpaqueRef:v"],
		"memory_static_max":1073741824,"memory_dynamic_max":1073741824,"memory_overhead":1,"VCPUs_at_startup":1,"current_operations":{"OpaqueRef:t":"clean_shutdown"},
		"is_a_template":false,"is_a_snapshot":false,"is_control_domain":false,"other_config":{"slipway_machine":%q,"slipway_self":%q,"slipway_run":"r","slipway_attempt":"1"},"consoles":[]}`, uuid, someMachine, uuid)
	vms["OpaqueRef:ours"] = json.RawMessage(ours)
	honest["VM.get_all_records"] = marshal(t, vms)
	for method, record := range map[string]string{
		"VBD.get_record":              `{"VM":"OpaqueRef:ours","VDI":"OpaqueRef:d","type":"Disk","userdevice":"0"}`,
		"VDI.get_record":              `{"uuid":"99999999-0000-4000-8000-00000000000d","SR":"OpaqueRef:s","virtual_size":5,"physical_utilisation":5,"VBDs":[],"other_config":{},"sm_config":{}}`,
		"VIF.get_record":              `{"device":"0","MAC":"02:16:3e:00:00:01","network":"OpaqueRef:n","VM":"OpaqueRef:ours","locking_mode":"unlocked","ipv4_allowed":[]}`,
		"VM_guest_metrics.get_record": `{"live":true,"networks":{"0/ip":"10.0.0.5"}}`,
		"host.get_record":             `{"uuid":"99999999-0000-4000-8000-00000000000e","name_label":"one","enabled":true,"metrics":"OpaqueRef:m"}`,
		"host.get_uuid":               `"99999999-0000-4000-8000-00000000000e"`,
		"SR.get_uuid":                 `"99999999-0000-4000-8000-00000000000f"`,
		"network.get_uuid":            `"99999999-0000-4000-8000-000000000010"`,
		"VM.get_by_uuid":              `"OpaqueRef:ours"`,
		"VM.get_record":               ours,
	} {
		honest[method] = json.RawMessage(record)
	}
	if err := lookAtAll(t, honest); err != nil {
		t.Fatalf("an honest pool: %v", err)
	}
	tried, turn := 0, 0
	for _, method := range slices.Sorted(maps.Keys(honest)) {
		answer := honest[method]
		for _, lie := range lies {
			answers := maps.Clone(honest)
			answers[method] = json.RawMessage(lie)
			_ = lookAtAll(t, answers)
			tried++
		}
		var all map[string]json.RawMessage
		if json.Unmarshal(answer, &all) != nil {
			continue
		}
		name, record := "", all
		if strings.HasSuffix(method, "get_all_records") {
			if len(all) == 0 {
				continue
			}
			name, record = slices.Sorted(maps.Keys(all))[0], nil
			if _, there := all["OpaqueRef:ours"]; there {
				name = "OpaqueRef:ours"
			}
			if err := json.Unmarshal(all[name], &record); err != nil {
				t.Fatal(err)
			}
		}
		for _, field := range slices.Sorted(maps.Keys(record)) {
			if !read[field] {
				continue
			}
			for _, lie := range append(slices.Clone(lies), "") {
				if turn++; turn%5 != 0 { // each field is told three or four of the sixteen, and its neighbours others
					continue
				}
				changed := maps.Clone(record)
				if changed[field] = json.RawMessage(lie); lie == "" {
					delete(changed, field)
				}
				answers := maps.Clone(honest)
				if answers[method] = marshal(t, changed); name != "" {
					whole := maps.Clone(all)
					whole[name] = answers[method]
					answers[method] = marshal(t, whole)
				}
				_ = lookAtAll(t, answers)
				tried++
			}
		}
	}
	t.Logf("%d lies", tried)
	if tried < 500 {
		t.Errorf("only %d lies were told", tried)
	}
}

// read are the fields that this package reads of any record.
var read = func() map[string]bool {
	fields := map[string]bool{}
	for _, record := range []any{vmRecord{}, vbdRecord{}, vdiRecord{}, vifRecord{}, networkRecord{}, hostRecord{}, hostMetricsRecord{}, srRecord{}, pbdRecord{}, guestMetricsRecord{}} {
		for i := range reflect.TypeOf(record).NumField() {
			fields[reflect.TypeOf(record).Field(i).Tag.Get("json")] = true
		}
	}
	return fields
}()

func marshal(t *testing.T, v any) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil { // a lie that is no JSON at all, such as a number out of all bounds
		t.Fatal(err)
	}
	return text
}

// lookAtAll asks a pool everything that is asked of pools, and judges what comes of it.
func lookAtAll(t *testing.T, answers canned) error {
	t.Helper()
	b, err := NewBackend(map[string]PoolConfig{"p": {Config: Config{Addresses: []string{"http://192.0.2.1"}, User: "u", Password: orchestrator.NewSecret("x"), Insecure: true}}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.pools["p"].client.wire.http.Transport = answers
	var errs []error
	inv, err := b.Inventory(t.Context(), "p")
	if errs = append(errs, err); err == nil {
		for _, h := range inv.Hosts {
			if h.MemoryMiB < 0 || h.CPUs < 0 || !isUUID(h.UUID) {
				t.Errorf("host %+v", h)
			}
			clean(t, h.Name)
		}
		for _, s := range inv.SRs {
			if s.Bytes < 0 || !isUUID(s.UUID) {
				t.Errorf("storage %+v", s)
			}
			clean(t, s.Name)
		}
		for _, mac := range inv.MACs {
			clean(t, mac)
		}
	}
	for _, ref := range []orchestrator.MachineRef{{Pool: "p", Machine: someMachine, LookOnly: true}, {Pool: "p", Machine: someMachine, VM: "99999999-0000-4000-8000-000000000001", LookOnly: true}} {
		vm, err := b.FindMachine(t.Context(), ref)
		if errs = append(errs, err); err == nil {
			if vm.Machine != someMachine || !isUUID(vm.UUID) || vm.PowerTask != "" && !Ref(vm.PowerTask).valid() {
				t.Errorf("found %+v", vm)
			}
		} else if ref.VM != "" && errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("the machine is taken for gone: %v", err)
		}
	}
	_, err = b.Strangers(t.Context(), "p")
	errs = append(errs, err)
	for _, err := range errs {
		if err != nil {
			clean(t, err.Error())
			if len(err.Error()) > 1000 {
				t.Errorf("%d bytes of error: %.200s", len(err.Error()), err)
			}
		}
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return errors.Join(errs...)
}

// A list of VMs that is none, or not whole, is no sign that a machine is gone.
func TestNothingIsTakenForGone(t *testing.T) {
	const dom0 = `"OpaqueRef:d":{"uuid":"99999999-0000-4000-8000-000000000002","is_control_domain":true}`
	for name, tt := range map[string]struct {
		list string
		gone bool
	}{
		"null":                    {`null`, false},
		"nothing":                 {`{}`, false},
		"a text":                  {`""`, false},
		"a list":                  {`[]`, false},
		"a VM that is null":       {`{` + dom0 + `,"OpaqueRef:a":null}`, false},
		"no reference":            {`{` + dom0 + `,"\u001b[2J":{}}`, false},
		"a reference to nothing":  {`{` + dom0 + `,"OpaqueRef:NULL":{}}`, false},
		"without the hosts' own":  {`{"OpaqueRef:a":{"uuid":"x"}}`, false},
		"the hosts' own and more": {`{` + dom0 + `,"OpaqueRef:a":{"uuid":"x"}}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t, always(ok(json.RawMessage(tt.list))))
			b := &Backend{pools: map[string]*pool{"p": testPool(newClient(t, testConfig(m.URL)))}}
			_, err := b.FindMachine(t.Context(), orchestrator.MachineRef{Pool: "p", Machine: someMachine})
			b.pools["p"].scans.work.Wait()
			if err == nil || errors.Is(err, orchestrator.ErrNotFound) != tt.gone || orchestrator.KindOf(err) != orchestrator.Transient {
				t.Errorf("%v", err)
			}
			clean(t, fmt.Sprint(err))
		})
	}
}

// References that no pool makes are not kept: they would go into rows, keys and calls.
func TestReferencesAreChecked(t *testing.T) {
	for _, bad := range []string{"", "OpaqueRef:", "x", "OpaqueRef:a b", "OpaqueRef:\x1b[2J", "OpaqueRef:a\x00", "OpaqueRef:a\u202e", "OpaqueRef:ä", "OpaqueRef:a/../b", "OpaqueRef:" + strings.Repeat("a", 200)} {
		if Ref(bad).valid() {
			t.Errorf("%q is a reference", bad)
		}
		m := newMember(t, always(ok(bad)))
		_, err := newClient(t, testConfig(m.URL)).StartTask(t.Context(), "VM.clone")
		if orchestrator.KindOf(err) != orchestrator.Unknown {
			t.Errorf("a task %q: %v", bad, err)
		}
		clean(t, fmt.Sprint(err))
		result, err := taskResult("<value>" + bad + "</value>")
		if strings.TrimSpace(bad) != "" && err == nil {
			t.Errorf("a result %q: %q", bad, result)
		}
	}
}

// A task that says it goes on holds whoever waits for it no longer than his own time, and is not taken for done.
func TestTaskThatNeverEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := canned{"Async.VM.destroy": json.RawMessage(`"OpaqueRef:t"`), "task.get_record": json.RawMessage(`{"status":"pending","progress":-3}`)}
		c, err := New(testConfig("http://192.0.2.1"))
		if err != nil {
			t.Fatal(err)
		}
		c.wire.http.Transport = answers
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		err = testPool(c).finish(ctx, "VM.destroy", Ref("OpaqueRef:vm"))
		if orchestrator.KindOf(err) != orchestrator.Unknown || !strings.Contains(fmt.Sprint(err), "VM.destroy") || time.Since(began) > 61*time.Minute {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// counted counts the calls of each method, and answers by a function.
type counted struct {
	n      map[string]int
	answer func(method string, n int) string
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	var req struct {
		Method string          `json:"method"`
		ID     json.RawMessage `json:"id"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return nil, err
	}
	c.n[req.Method]++
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, req.ID, c.answer(req.Method, c.n[req.Method]))
	w := httptest.NewRecorder()
	_, _ = w.WriteString(body)
	response := w.Result()
	response.Request = r
	return response, nil
}

// A pool that floods us with events of ever new tasks is asked no more often than fifty times a second, and makes us remember no more tasks
// than a pool can have.
func TestEventFlood(t *testing.T) {
	const perAnswer = 3 * maxFollowed / 2
	flood := &counted{n: map[string]int{}, answer: func(method string, n int) string {
		switch method {
		case "session.login_with_password":
			return `"OpaqueRef:session"`
		case "session.logout":
			return `""`
		}
		var b strings.Builder
		b.WriteString(`{"token":"t","events":[`)
		for i := range perAnswer {
			if n > 3 && i > 0 { // three floods, then a drip without a pause
				break
			}
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"class":"task","operation":"add","ref":"OpaqueRef:%x-%x","snapshot":{"status":"pending"}}`, n, i)
		}
		b.WriteString(`]}`)
		return b.String()
	}}
	synctest.Test(t, func(t *testing.T) {
		c, err := New(testConfig("http://192.0.2.1"))
		if err != nil {
			t.Fatal(err)
		}
		c.wire.http.Transport = flood
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		told := 0
		_ = c.Follow(ctx, func(Ref, TaskStatus) { told++ })
		if asked := flood.n["event.from"]; asked > 20*50+1 || asked < 100 {
			t.Errorf("asked %d times in 20 s", asked)
		}
		if told > 3*maxFollowed+20*50+1 {
			t.Errorf("%d tasks were told", told)
		}
	})
	f := &follower{c: newClient(t, testConfig("http://192.0.2.1")), onTask: func(Ref, TaskStatus) {}, pending: map[Ref]bool{}}
	for n := range 3 {
		var batch eventBatch
		for i := range perAnswer {
			batch.Events = append(batch.Events, event{Class: "task", Operation: "add", Ref: Ref(fmt.Sprintf("OpaqueRef:%d-%d", n, i)), Snapshot: json.RawMessage(`{"status":"pending"}`)})
		}
		f.report(batch, false)
	}
	if len(f.pending) > maxFollowed {
		t.Errorf("%d tasks are remembered", len(f.pending))
	}
}
