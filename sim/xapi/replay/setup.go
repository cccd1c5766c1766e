package replay

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"slipway/sim/xapi"
)

// setup is the pool that a recording was made on, and what in it is not xapi's own.
type setup struct {
	srs      []int64 // storage repositories that were there, bytes
	networks int     // networks without a PIF that were there
	bare     bool    // no HVM, no licence for VIF locking
	slave    bool    // the recorded host was a slave
	except   map[int]string
	copying  time.Duration // what a fifth of a full copy took
	before   map[int]func(*player)
}

const gib = 1 << 30

func setupFor(name string) setup {
	s := setup{networks: 1, srs: []int64{10 * gib, 4 * gib}}
	switch strings.TrimSuffix(name, ".json") {
	case "pv_life_cycle":
		s = setup{bare: true}
	case "mistakes": // condensed from the same pool as pv_life_cycle
		s = setup{bare: true}
	case "storage_1", "storage":
		s = setup{}
	case "slave_emergency":
		s.slave = true
	case "storage_2_template_disks":
		s.copying = 310 * time.Millisecond
	case "restart":
		s.before = map[int]func(*player){
			10: func(p *player) { p.delay("vdi_clone", 600) }, // the recorder slowed its driver down without a remark
			18: func(p *player) { p.loginAgain(18) },
			30: func(p *player) { p.sim.EnableHosts() },
			31: func(p *player) { p.delay("vdi_clone", 0) },
		}
	case "tasks_start_in_progress":
		s.before = map[int]func(*player){ // the recorder halted the VM in between
			41: func(p *player) { p.act(43, "VM.hard_shutdown") },
			51: func(p *player) { p.act(52, "VM.hard_shutdown") },
		}
	case "hvm_life_cycle":
		// xenopsd's simulator lost the disk at 105, and the VM was left paused.
		s.before = map[int]func(*player){106: func(p *player) { p.act(106, "VM.pause") }}
	}
	s.except = exceptions[strings.TrimSuffix(name, ".json")]
	return s
}

func (s setup) config() xapi.Config {
	hosts := 1
	if s.slave {
		hosts = 2
	}
	return xapi.Config{
		Password: password, Hosts: hosts, Seed: 7, HostMemory: 1 << 40, HostCPUs: 8, SRs: -1, Networks: []string{}, Templates: []xapi.Template{},
		RestrictVIF: s.bare, GuestAddress: func(string) (string, bool) { return "10.1.2.3", true },
	}
}

func (s setup) timeout() time.Duration { return 20 * time.Second }

// exception gives the reason why an exchange is not compared.
func (s setup) exception(e *entry) (string, bool) {
	if reason, ok := s.except[e.index]; ok {
		return reason, true
	}
	for _, rule := range rules {
		if rule.applies(e) {
			return rule.reason, true
		}
	}
	return "", false
}

// prepare makes what was there before the recording began.
func (p *player) prepare() error {
	if p.setup.slave {
		return nil
	}
	session, _, err := p.call("session.login_with_password", []any{"root", "secret", "2.21", "replay"})
	if err != nil {
		return err
	}
	do := func(method string, params ...any) (any, error) {
		result, failure, err := p.call(method, append([]any{session}, params...))
		if failure != nil {
			err = fmt.Errorf("%s: %v", method, failure)
		}
		return result, err
	}
	hosts, err := do("host.get_all")
	if err != nil {
		return err
	}
	host := hosts.([]any)[0].(string)
	have := map[string]string{"host": host}
	for i, size := range p.setup.srs {
		sr, err := do("SR.create", host, map[string]any{}, size, fmt.Sprintf("sr%d", i), "", "dummy", "user", false, map[string]any{})
		if err != nil {
			return err
		}
		have[fmt.Sprintf("sr%d", i)] = sr.(string)
	}
	for range p.setup.networks {
		n, err := do("network.create", map[string]any{"name_label": "net0", "name_description": "x", "MTU": 1500, "other_config": map[string]any{}, "tags": []any{}})
		if err != nil {
			return err
		}
		have["network"] = n.(string)
	}
	pools, err := do("pool.get_all")
	if err != nil {
		return err
	}
	have["pool"] = pools.([]any)[0].(string)
	if sr0, ok := have["sr0"]; ok {
		for _, field := range []string{"default_SR", "suspend_image_SR"} {
			if _, err := do("pool.set_"+field, have["pool"], sr0); err != nil {
				return err
			}
		}
		rec, err := do("SR.get_uuid", sr0)
		if err != nil {
			return err
		}
		if uuid := p.rec.provisionSR(); uuid != "" {
			p.match.learn(uuid, rec.(string))
		}
	}
	p.sim.SetDelay("VDI.copying", time.Duration(float64(p.setup.copying)*timeScale))
	for ref, what := range p.setup.refs(p.rec) {
		if sim, ok := have[what]; ok {
			p.match.learn(ref, sim)
		}
	}
	_, err = do("session.logout")
	return err
}

var provisionSR = regexp.MustCompile(`sr=\\?"([0-9a-f-]{36})`)

// provisionSR is the uuid that a disks key names first: the SR that was there.
func (r *recording) provisionSR() string {
	for _, e := range r.entries {
		if m := provisionSR.FindStringSubmatch(string(e.Raw)); m != nil && e.Method == "VM.add_to_other_config" {
			return m[1]
		}
	}
	return ""
}

// loginAgain makes the session of a login that the recording does not show: the one that call index uses.
func (p *player) loginAgain(index int) {
	result, _, err := p.call("session.login_with_password", []any{"root", "secret", "2.21", "again"})
	if sim, ok := result.(string); ok && err == nil {
		p.match.forward[p.rec.entries[index].Params[0].(string)] = sim
	}
}

// act does on the simulator's object of call index what happened to the recorded one without a call.
func (p *player) act(index int, method string) {
	e := p.rec.entries[index]
	_, failure, err := p.call(method, []any{p.session(), p.match.translate(e.Params[1].(string))})
	if failure != nil || err != nil {
		p.report.Differences = append(p.report.Differences, Outcome{index, method, fmt.Sprint(failure, err)})
	}
}

// refs finds the references that a recording uses before any answer showed them, by the place where they stand first.
func (s setup) refs(r *recording) map[string]string {
	out, seen, srs := map[string]string{}, map[string]bool{}, 0
	for _, e := range r.entries {
		var walk func(key string, v any)
		walk = func(key string, v any) {
			switch x := v.(type) {
			case map[string]any:
				for k, item := range x {
					walk(k, item)
				}
			case string:
				if !strings.HasPrefix(x, "OpaqueRef:") || !identity.MatchString(x) || seen[x] {
					return
				}
				switch {
				case key == "SR" || strings.Contains(e.Method, "VM.copy") && key == "3":
					out[x] = fmt.Sprintf("sr%d", srs)
					srs++
				case key == "network":
					out[x] = "network"
				case strings.HasPrefix(e.Method, "host.") && key == "1" || e.Method == "VM.assert_can_boot_here" && key == "2" || strings.HasSuffix(e.Method, "VM.start_on") && key == "2":
					out[x] = "host"
				case e.Method == "event.inject" || strings.HasPrefix(e.Method, "pool."):
					out[x] = "pool"
				}
			}
		}
		for i, v := range e.Params {
			if i > 0 {
				walk(fmt.Sprint(i), v)
			}
		}
		switch e.Method { // these show the surroundings, not what a call is about
		case "host.get_record", "pool.get_record", "event.from":
			continue
		}
		for _, id := range identity.FindAllString(string(e.Raw), -1) {
			seen[id] = true
		}
	}
	return out
}
