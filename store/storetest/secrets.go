package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"slipway/orchestrator"
)

// secrets is how keys are exchanged: who holds which, and every place where a sealed value lies.
func secrets(t *testing.T, h Harness) {
	t.Run("Keys", func(t *testing.T) {
		b := setup(t, h)
		state, holders, err := b.store.Vault(t.Context())
		must(t, err)
		if state.Sealing != "" || len(state.Keys) != 0 || len(holders) != 0 {
			t.Fatalf("%+v, %+v", state, holders)
		}
		refused := errors.New("refused")
		if _, err := b.store.JoinVault(t.Context(), "one", []string{"k1"}, func(s orchestrator.VaultState) (orchestrator.VaultState, error) { return s, refused }); !errors.Is(err, refused) {
			t.Fatalf("%v", err)
		}
		if _, holders, err = b.store.Vault(t.Context()); err != nil || len(holders) != 0 {
			t.Fatalf("who was refused holds keys: %+v, %v", holders, err)
		}
		_, err = b.store.JoinVault(t.Context(), "one", []string{"k1"}, func(s orchestrator.VaultState) (orchestrator.VaultState, error) {
			s.Sealing, s.Keys = "k1", []string{"k1"}
			return s, nil
		})
		must(t, err)
		_, err = b.store.JoinVault(t.Context(), "two", []string{"k1", "k2"}, nil)
		must(t, err)
		if err := b.store.SealWith(t.Context(), "k2", "0:root", "x"); err == nil || !strings.Contains(err.Error(), "one does not hold key k2") || strings.Contains(err.Error(), "two does not") {
			t.Errorf("one has not the key yet: %v", err)
		}
		_, err = b.store.JoinVault(t.Context(), "one", []string{"k1", "k2"}, nil)
		must(t, err)
		must(t, b.db.Exec(t.Context(), `INSERT INTO vault_holders (holder, keys, seen_at) VALUES ('gone', '["k1"]', 1)`))
		must(t, b.store.SealWith(t.Context(), "k2", "0:root", "leaked"))
		state, err = b.store.JoinVault(t.Context(), "two", []string{"k1", "k2"}, nil)
		must(t, err)
		if state.Sealing != "k2" || !slices.Equal(state.Keys, []string{"k1", "k2"}) {
			t.Errorf("the other is told %+v", state)
		}
		acts, _, err := b.store.Acts(t.Context(), 0, 10)
		must(t, err)
		if len(acts) != 1 || acts[0].Verb != "rotate-secrets" || acts[0].Subject != "key k2" || acts[0].Reason != "leaked" {
			t.Errorf("recorded: %+v", acts)
		}
		must(t, b.store.LeaveVault(t.Context(), "one"))
		if _, holders, err = b.store.Vault(t.Context()); err != nil || len(holders) != 1 || holders[0].Holder != "two" || !holders[0].Live {
			t.Errorf("%+v, %v", holders, err)
		}
	})

	t.Run("EveryCopy", func(t *testing.T) {
		b := setup(t, h)
		// Each machine has three values, a console entry in two texts, and a run that changes something.
		var ids []string
		for range 5 {
			c := b.place(b.taken("a"))
			m := c.Machine
			m.HostKeySecret, m.ConsolePassword, m.AdministratorPassword = sealed("old host"), sealed("old console"), sealed("old admin")
			b.commit(orchestrator.Commit{Run: c.Run, Machine: &m})
			entry := fmt.Sprintf(`{"machine":%q,"pool":"pool-a","vm":"","port":1,"password":"b2xkIGNvbnNvbGU="}`, m.ID) // "old console"
			must(t, b.db.Exec(t.Context(), `INSERT INTO entries (group_id, machine, owner, generation, body, live) VALUES ('xvp', '`+m.ID+`', 'slipway', 1, '`+entry+`', '`+entry+`')`))
			must(t, b.db.Exec(t.Context(), `UPDATE runs SET alteration = '{"state":"production_ready","former":{"firewall":null,"ssh_keys":null,"hostname":"h","console_password":"b2xkIGNvbnNvbGU="},`+
				`"wanted":{"firewall":null,"ssh_keys":null,"hostname":"other","console_password":"b2xkIGNvbnNvbGU="}}' WHERE machine = '`+m.ID+`'`))
			ids = append(ids, m.ID)
		}
		read := func() (values []orchestrator.SealedValue) {
			t.Helper()
			for after := ""; ; {
				page, next, err := b.store.SealedValues(t.Context(), after, 2)
				must(t, err)
				values = append(values, page...)
				if next == "" {
					return values
				}
				after = next
			}
		}
		count := func(prefix string) (n int) {
			for _, v := range read() {
				if strings.HasPrefix(string(v.Sealed), prefix) {
					n++
				}
			}
			return n
		}
		const each = 3 + 2 + 2
		if n := count("old"); n != 5*each || len(read()) != n {
			t.Fatalf("%d values, want %d", n, 5*each)
		}
		next := 0
		anew := func(v orchestrator.SealedValue) (orchestrator.Sealed, error) {
			next++
			return sealed(strings.Replace(string(v.Sealed), "old", fmt.Sprint("new", next), 1)), nil
		}

		calls := 0
		_, err := b.store.Reseal(t.Context(), ids[0], func(v orchestrator.SealedValue) (orchestrator.Sealed, error) {
			if calls++; calls == 3 {
				return nil, orchestrator.Errorf("test", orchestrator.Permanent, "damaged")
			}
			return anew(v)
		})
		if err == nil || count("old") != 5*each {
			t.Errorf("half of a machine was sealed anew: %v", err)
		}
		n, err := b.store.Reseal(t.Context(), ids[0], anew)
		if err != nil || n != each || count("old") != 4*each || count("new") != each {
			t.Errorf("%d of %d values: %v", n, each, err)
		}
		for _, v := range read() {
			if v.Machine == ids[0] != strings.HasPrefix(string(v.Sealed), "new") {
				t.Errorf("%s of %s is %s", v.Name, v.Machine, v.Sealed)
			}
		}
		if n, err := b.store.Reseal(t.Context(), ids[0], func(v orchestrator.SealedValue) (orchestrator.Sealed, error) { return v.Sealed, nil }); n != 0 || err != nil {
			t.Errorf("what stays the same: %d, %v", n, err)
		}

		// Four copies of one password are one value still, and nothing else of the rows is different.
		m, err := b.store.Machine(t.Context(), ids[0])
		must(t, err)
		runs, err := b.store.Runs(t.Context(), orchestrator.RunFilter{Machine: ids[0]})
		must(t, err)
		a := runs[0].Alteration
		if a.ChangesConsole() || !a.ChangesHostname() || a.State != orchestrator.StateReady || string(a.Former.ConsolePassword) != string(m.ConsolePassword) {
			t.Errorf("the run changes %+v", a)
		}
		_, entries, err := b.store.Entries(t.Context(), "xvp")
		must(t, err)
		for _, e := range entries {
			if want := m.ConsoleEntry(m.ConsolePassword).Password; e.Machine == m.ID && (!strings.Contains(string(e.Body), want) || string(e.Body) != string(e.Live) || e.Generation != 1) {
				t.Errorf("entry %+v", e)
			}
		}
	})
}

func sealed(s string) orchestrator.Sealed { return orchestrator.Sealed(s) }
