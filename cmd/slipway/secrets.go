package main

import (
	"errors"
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
)

// secretsCmd exchanges the key that secrets are sealed under.
type secretsCmd struct {
	Status secretsStatusCmd `cmd:"" default:"withargs" help:"Which key seals, how many secrets are under each, and which workers hold which."`
	Rotate secretsRotateCmd `cmd:"" help:"Seal everything under the newest key, while workers go on."`
}

type secretsStatusCmd struct{}

func (secretsStatusCmd) Run(e *env) error {
	var found api.Secrets
	if err := e.get("/v1/secrets", &found); err != nil {
		return err
	}
	return e.printSecrets(found)
}

func (e *env) printSecrets(found api.Secrets) error {
	if e.Output == "json" {
		return e.print(found, nil)
	}
	err := e.print(nil, func(t table.Writer) {
		t.AppendHeader(table.Row{"key", "secrets", ""})
		for _, k := range found.Keys {
			t.AppendRow(table.Row{k.ID, k.Values, keyNote(k)})
		}
	})
	if err != nil {
		return err
	}
	if found.ClosedCount > 0 {
		fmt.Fprintf(e.stdout, "\n%d secrets open under no key that is held, such as:\n", found.ClosedCount)
		for _, what := range found.Closed {
			fmt.Fprintln(e.stdout, " ", clean(what))
		}
	}
	newest := ""
	for _, k := range found.Keys {
		if k.Newest {
			newest = k.ID
		}
	}
	for _, w := range found.Workers {
		holds := false
		for _, id := range w.Keys {
			holds = holds || id == newest
		}
		if !holds {
			fmt.Fprintf(e.stdout, "worker %s does not hold the newest key yet\n", clean(w.Worker))
		}
	}
	return nil
}

func keyNote(k api.SecretsKey) string {
	switch {
	case !k.Held:
		return "not held by this worker"
	case k.Seals && k.OldForm > 0:
		return fmt.Sprintf("seals; %d are from before keys had ids", k.OldForm)
	case k.Seals:
		return "seals"
	case k.Newest:
		return "the newest: `slipway secrets rotate` seals with it"
	case k.Values == 0:
		return "may be removed from vault_key"
	default:
		return "still needed"
	}
}

type secretsRotateCmd struct {
	Yes    bool   `help:"Do it."`
	Reason string `help:"Why; it goes into the record."`
}

// rotations bounds how often everything is gone over: a run under way writes back what it has in hand.
const rotations = 3

// Run asks page by page. Whatever ends it, another call goes on with what is left.
func (c secretsRotateCmd) Run(e *env) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	defer client.Close()
	if !c.Yes {
		var found api.Secrets
		if err := client.Get(e.ctx, "/v1/secrets", &found); err != nil {
			return err
		}
		if err := e.printSecrets(found); err != nil {
			return err
		}
		return e.only("seal all secrets under the newest key")
	}
	total := 0
	var failed []string
	for pass := range rotations {
		before := total
		failed = nil
		ask := api.Rotate{Begin: pass == 0, Reason: c.Reason, Yes: true}
		for {
			var done api.Rotated
			if err := client.Post(e.ctx, "/v1/secrets/rotate", ask, &done); err != nil {
				if total > 0 {
					fmt.Fprintf(e.stderr, "%d secrets were sealed anew before this; call it again for the others\n", total)
				}
				return err
			}
			total += done.Resealed
			failed = append(failed, done.Failed...)
			if done.Next == "" {
				break
			}
			ask = api.Rotate{After: done.Next, Reason: c.Reason, Yes: true}
		}
		if total == before {
			break
		}
	}
	var found api.Secrets
	if err := client.Get(e.ctx, "/v1/secrets", &found); err != nil {
		return err
	}
	if e.Output != "json" {
		fmt.Fprintf(e.stdout, "%d secrets were sealed anew\n\n", total)
	}
	if err := e.printSecrets(found); err != nil {
		return err
	}
	for _, what := range failed {
		fmt.Fprintln(e.stderr, clean(what))
	}
	left := found.ClosedCount
	for _, k := range found.Keys {
		if k.Seals {
			left += k.OldForm
		} else {
			left += k.Values
		}
	}
	if left > 0 {
		return hinted{error: errors.New("not all secrets are under the newest key: runs under way may write back what they have in hand"),
			next: "slipway secrets rotate --yes --reason WHY, when they have ended", code: exitFailure}
	}
	return nil
}
