package config

import (
	"os"
	"strings"
	"testing"
)

// FuzzConfig: whatever a configuration holds, it is refused in words or can be asked everything that serve asks of it.
func FuzzConfig(f *testing.F) {
	for _, path := range []string{"../../deploy/slipway.example.yaml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("pools: [{id: a, private: {prefix: 10.0.0.0/24, ranges: [10.0.0.9-10.0.0.1], reserved: [x]}, console_ports: 1-70000}]\ngroups: [{id: \"\"}]"))
	f.Add([]byte("a: &a [*a]\n---\n"))
	f.Add([]byte("queue: {kind: amqp, url: \"amqp://u:p@h/%zz\"}\nlease: -1s\nworkers: 99999999999999999999"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("a refusal without words")
			}
			return
		}
		estate := c.Estate([]string{"debian-12"})
		if len(estate.Pools) != len(c.Pools) {
			t.Errorf("%d pools of %d", len(estate.Pools), len(c.Pools))
		}
		for _, p := range estate.Pools {
			for _, s := range []int{len(p.Private.Ranges), len(p.Firewall), len(p.Console)} {
				if s == 0 {
					t.Errorf("pool %q passed without a range or a group: %+v", p.ID, p)
				}
			}
			for _, r := range p.Private.Ranges {
				if !p.Private.Prefix.Contains(r.First) || !p.Private.Prefix.Contains(r.Last) || r.Last.Less(r.First) {
					t.Errorf("range %v of %s passed", r, p.Private.Prefix)
				}
			}
		}
		c.DomainGroups()
	})
}
