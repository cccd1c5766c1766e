package replay

import (
	"fmt"
	"regexp"
	"sort"
	"strings"
)

// matcher compares what was recorded with what the simulator says. References, uuids, tokens and generated addresses differ between two
// pools, so the first time one is seen it is learned which of the simulator's it is; from then on it has to be that one.
type matcher struct {
	forward, back map[string]string
	trail         []string // learned in order, to forget a failed attempt
	path          []string
	problem       string
}

func newMatcher() *matcher { return &matcher{forward: map[string]string{}, back: map[string]string{}} }

var (
	identity = regexp.MustCompile(`OpaqueRef:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9]{20},[0-9]{20}|\b[0-9]{10,19}:[0-9]{10,19}\b|\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b`)
	moment   = regexp.MustCompile(`^[0-9]{8}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$`)
)

const epoch = "19700101T00:00:00Z"

// translate writes recorded text in the simulator's identities; what is not known stays.
func (m *matcher) translate(text string) string {
	return identity.ReplaceAllStringFunc(text, func(s string) string {
		if to, ok := m.forward[s]; ok {
			return to
		}
		return s
	})
}

func (m *matcher) translateAll(v any) any {
	switch x := v.(type) {
	case string:
		return m.translate(x)
	case []any:
		out := make([]any, len(x))
		for i := range x {
			out[i] = m.translateAll(x[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, item := range x {
			out[m.translate(k)] = m.translateAll(item)
		}
		return out
	default:
		return v
	}
}

func (m *matcher) learn(recorded, simulated string) bool {
	if strings.Contains(recorded, ",") && strings.Contains(simulated, ",") { // an event token: a position, not an identity
		m.forward[recorded] = simulated
		return true
	}
	if to, ok := m.forward[recorded]; ok {
		return to == simulated
	}
	if _, taken := m.back[simulated]; taken {
		return false
	}
	m.forward[recorded], m.back[simulated] = simulated, recorded
	m.trail = append(m.trail, recorded)
	return true
}

func (m *matcher) forget(mark int) {
	for _, r := range m.trail[min(mark, len(m.trail)):] {
		delete(m.back, m.forward[r])
		delete(m.forward, r)
	}
	m.trail = m.trail[:mark]
}

// try runs a comparison and forgets what it learned when it fails.
func (m *matcher) try(f func() bool) bool {
	mark, depth := len(m.trail), len(m.path)
	if f() {
		return true
	}
	m.forget(mark)
	m.path = m.path[:depth]
	return false
}

func (m *matcher) differ(what string) bool {
	m.problem = strings.Join(m.path, ".") + ": " + what
	return false
}

// equal compares two decoded JSON values. Sets are compared without their order.
func (m *matcher) equal(recorded, simulated any) bool {
	switch r := recorded.(type) {
	case string:
		s, ok := simulated.(string)
		return ok && m.text(r, s) || !ok && m.differ("recorded text "+short(r)+", simulated "+show(simulated))
	case []any:
		s, ok := simulated.([]any)
		if !ok || len(r) != len(s) {
			return m.differ("recorded " + show(recorded) + ", simulated " + show(simulated))
		}
		return m.try(func() bool { return m.inOrder(r, s) }) || m.anyOrder(r, s)
	case map[string]any:
		s, ok := simulated.(map[string]any)
		if !ok || len(r) != len(s) {
			return m.differ(fmt.Sprintf("recorded %d members, simulated %d: %s, %s", len(r), len(s), show(recorded), show(simulated)))
		}
		return m.dictionary(r, s)
	default:
		return recorded == simulated || m.differ("recorded "+show(recorded)+", simulated "+show(simulated))
	}
}

func (m *matcher) text(r, s string) bool {
	if r == s && !identity.MatchString(r) {
		return true
	}
	if moment.MatchString(r) && moment.MatchString(s) {
		return (r == epoch) == (s == epoch) || m.differ("recorded "+r+", simulated "+s)
	}
	ri, si := identity.FindAllStringIndex(r, -1), identity.FindAllStringIndex(s, -1)
	if len(ri) == 0 || len(ri) != len(si) {
		return m.differ("recorded " + short(r) + ", simulated " + short(s))
	}
	rEnd, sEnd := 0, 0
	for i := range ri {
		if r[rEnd:ri[i][0]] != s[sEnd:si[i][0]] || !m.learn(r[ri[i][0]:ri[i][1]], s[si[i][0]:si[i][1]]) {
			return m.differ("recorded " + short(r) + ", simulated " + short(s))
		}
		rEnd, sEnd = ri[i][1], si[i][1]
	}
	return r[rEnd:] == s[sEnd:] || m.differ("recorded "+short(r)+", simulated "+short(s))
}

func (m *matcher) inOrder(r, s []any) bool {
	for i := range r {
		if !m.equal(r[i], s[i]) {
			return false
		}
	}
	return true
}

func (m *matcher) anyOrder(r, s []any) bool {
	used := make([]bool, len(s))
	for _, item := range r {
		found := false
		for j := range s {
			if !used[j] && m.try(func() bool { return m.equal(item, s[j]) }) {
				used[j], found = true, true
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}

// dictionary compares by key; keys that are references are matched by their values when they are not known.
func (m *matcher) dictionary(r, s map[string]any) bool {
	keys := make([]string, 0, len(r))
	for k := range r {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { // known ones first: they leave fewer choices
		_, a := s[m.translate(keys[i])]
		_, b := s[m.translate(keys[j])]
		if a != b {
			return a
		}
		return keys[i] < keys[j]
	})
	used := map[string]bool{}
	for _, k := range keys {
		if v, ok := s[m.translate(k)]; ok {
			used[m.translate(k)] = true
			m.path = append(m.path, k)
			if !m.equal(r[k], v) {
				return false
			}
			m.path = m.path[:len(m.path)-1]
			continue
		}
		found := false
		for sk, v := range s {
			if !used[sk] && m.try(func() bool { return m.text(k, sk) && m.equal(r[k], v) }) {
				used[sk], found = true, true
				break
			}
		}
		if !found {
			if m.problem == "" || !identity.MatchString(k) {
				return m.differ("key " + k + " is not in the simulator's answer")
			}
			return false
		}
	}
	return true
}
