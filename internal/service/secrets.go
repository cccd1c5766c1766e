package service

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/workers/vault"
)

// secretsPage is how many machines' secrets are in memory at once, and are sealed anew by one request.
const secretsPage = 200

func openVault(cfg *config.Config) (*vault.Vault, error) {
	keys, err := cfg.VaultKey.Read()
	if err != nil {
		return nil, fmt.Errorf("vault_key: %w", err)
	}
	v, err := vault.New(keys)
	if err != nil {
		return nil, fmt.Errorf("vault_key: %w", err)
	}
	return v, nil
}

// joinVault makes sure that the keys open what the database holds, before anything else is done with it, and lets the vault seal with the
// key that all workers seal with. A key file that lacks a key which is still needed is refused.
func joinVault(ctx context.Context, s orchestrator.Secrets, v *vault.Vault, holder string, log *slog.Logger) error {
	held := v.Keys()
	state, err := s.JoinVault(ctx, holder, held, func(state orchestrator.VaultState) (orchestrator.VaultState, error) {
		missing := slices.ContainsFunc(state.Keys, func(id string) bool { return !slices.Contains(held, id) })
		if missing || len(state.Keys) == 0 {
			used, err := countSecrets(ctx, s, v)
			if err != nil {
				return state, err
			}
			if err := used.refuse(missing, log); err != nil {
				return state, err
			}
			if len(state.Keys) == 0 && used.values == 0 { // nobody has workers that know nothing of ids
				state.Sealing = held[len(held)-1]
			}
		}
		if state.Sealing != "" && !slices.Contains(held, state.Sealing) {
			return state, orchestrator.FieldErrors{{Field: "vault_key", Problem: fmt.Sprintf("does not hold key %s, which workers of this database seal with", state.Sealing), Fix: "add its line, as the other workers have it"}}
		}
		state.Keys = held
		return state, nil
	})
	if err != nil {
		return err
	}
	return v.Use(state.Sealing)
}

// checkSecrets holds the keys against what the database has, as a start does.
func checkSecrets(ctx context.Context, cfg *config.Config, s orchestrator.Secrets, log *slog.Logger) (string, error) {
	v, err := openVault(cfg)
	if err != nil {
		return "", nil // said of vault_key
	}
	used, err := countSecrets(ctx, s, v)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d secrets", used.values), used.refuse(false, log)
}

// renewVault says that this process still holds its keys, and follows the others to a new one.
func renewVault(ctx context.Context, s orchestrator.Secrets, v *vault.Vault, holder string, log *slog.Logger) {
	state, err := s.JoinVault(ctx, holder, v.Keys(), nil)
	if err == nil {
		err = v.Use(state.Sealing)
	}
	if err != nil && ctx.Err() == nil {
		log.Warn("tell which keys are held", "error", err)
	}
}

// keepVault renews every minute until the returned function is called, which waits for it.
func keepVault(ctx context.Context, s orchestrator.Secrets, v *vault.Vault, holder string, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				renewVault(ctx, s, v, holder, log)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// usedKeys counts sealed values by key.
type usedKeys struct {
	values int
	byKey  map[string]int
	old    map[string]int // of byKey, those in the form without an id
	opened int            // of the old form, those that some key opens
	closed []string       // of the old form, those that none does; and what is no sealed value at all
	held   []string
}

func countSecrets(ctx context.Context, s orchestrator.Secrets, v *vault.Vault) (*usedKeys, error) {
	used := &usedKeys{byKey: map[string]int{}, old: map[string]int{}, held: v.Keys()}
	for after := ""; ; {
		values, next, err := s.SealedValues(ctx, after, secretsPage)
		if err != nil {
			return nil, err
		}
		for _, value := range values {
			used.values++
			id, ok := v.KeyOf(value.Machine, value.Name, value.Sealed)
			if !ok || id == "" {
				used.closed = append(used.closed, value.Name+" of machine "+value.Machine)
				continue
			}
			used.byKey[id]++
			if vault.OldForm(value.Sealed) {
				used.old[id]++
				used.opened++
			}
		}
		if next == "" {
			return used, nil
		}
		after = next
	}
}

// refuse says what would not open. A value that does not open while others of its kind do is damaged, and stops nobody: it stopped opening
// before.
func (u *usedKeys) refuse(missing bool, log *slog.Logger) error {
	var refused orchestrator.FieldErrors
	for id, n := range u.byKey {
		if !slices.Contains(u.held, id) {
			refused = append(refused, orchestrator.FieldError{Field: "vault_key", Problem: fmt.Sprintf("does not hold key %s, under which %d secrets in the database are sealed", id, n),
				Fix: "put its line back; it may go when `slipway secrets status` counts none under it"})
		}
	}
	slices.SortFunc(refused, func(a, b orchestrator.FieldError) int { return cmp.Compare(a.Problem, b.Problem) })
	switch {
	case refused != nil:
		return refused
	case len(u.closed) > 0 && (missing || u.opened == 0):
		return orchestrator.FieldErrors{{Field: "vault_key", Problem: fmt.Sprintf("opens none of %d secrets that are in the database: they were sealed under another key", len(u.closed)),
			Fix: "put the key there that this database was used with; without it the secrets are lost"}}
	case len(u.closed) > 0:
		log.Warn("secrets in the database do not open", "values", len(u.closed), "first", u.closed[0])
	}
	return nil
}

// getSecrets counts.
func (s *Service) getSecrets(r *http.Request) (any, error) {
	ctx := r.Context()
	state, holders, err := s.Store.Vault(ctx)
	if err != nil {
		return nil, err
	}
	used, err := countSecrets(ctx, s.Store, s.vault)
	if err != nil {
		return nil, err
	}
	out := api.Secrets{Values: used.values, Closed: used.closed[:min(len(used.closed), 20)], ClosedCount: len(used.closed)}
	ids := slices.Clone(used.held)
	for id := range used.byKey {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	sealing := state.Sealing
	if sealing == "" {
		sealing = used.held[0]
	}
	for i, id := range ids {
		out.Keys = append(out.Keys, api.SecretsKey{ID: id, Values: used.byKey[id], OldForm: used.old[id], Held: i < len(used.held), Newest: i == len(used.held)-1, Seals: id == sealing})
	}
	for _, h := range holders {
		if h.Live {
			out.Workers = append(out.Workers, api.SecretsWorker{Worker: h.Holder, Keys: h.Keys, Seen: h.SeenAt})
		}
	}
	return out, nil
}

// postRotate makes the newest key of the file the one that seals, and seals the secrets of the next machines anew. It is called again with
// what it returns until that is empty; each machine is a transaction of its own, so that it can be left and begun again at any point.
func (s *Service) postRotate(r *http.Request) (any, error) {
	ctx := r.Context()
	var ask api.Rotate
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil || !ask.Yes {
		return nil, orchestrator.FieldErrors{{Field: "yes", Problem: "was not said", Fix: "add --yes"}}
	}
	keys := s.vault.Keys()
	newest := keys[len(keys)-1]
	if ask.After == "" && ask.Begin {
		if err := needReason(ask.Reason); err != nil {
			return nil, err
		}
		if err := s.Store.SealWith(ctx, newest, actor(ctx), ask.Reason); err != nil {
			return nil, err
		}
		s.log.Info("secrets are sealed with another key", "key", newest, "actor", actor(ctx), "reason", ask.Reason)
	}
	if err := s.vault.Use(newest); err != nil {
		return nil, err
	}
	limit := secretsPage
	if ask.Limit > 0 {
		limit = min(ask.Limit, limit)
	}
	values, next, err := s.Store.SealedValues(ctx, ask.After, limit)
	if err != nil {
		return nil, err
	}
	out := api.Rotated{Key: newest, Next: next, Values: len(values)}
	var machines []string
	for _, v := range values {
		if id, _ := s.vault.KeyOf(v.Machine, v.Name, v.Sealed); id != newest || vault.OldForm(v.Sealed) {
			machines = append(machines, v.Machine)
		}
	}
	slices.Sort(machines)
	for _, m := range slices.Compact(machines) {
		n, err := s.Store.Reseal(ctx, m, func(v orchestrator.SealedValue) (orchestrator.Sealed, error) {
			return s.vault.Reseal(v.Machine, v.Name, v.Sealed)
		})
		if orchestrator.KindOf(err) == orchestrator.Permanent { // a value that does not open stays, and stops no other machine's
			out.Failed = append(out.Failed, err.Error())
			continue
		}
		if err != nil {
			return nil, err
		}
		out.Resealed += n
	}
	return out, nil
}

// leaveVault is an orderly end: nobody waits for this process to get a key.
func leaveVault(s orchestrator.Secrets, holder string, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.LeaveVault(ctx, holder); err != nil {
		log.Debug("leave the vault", "error", err)
	}
}
