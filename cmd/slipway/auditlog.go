package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// auditCmd looks at the site as it is, or back.
type auditCmd struct {
	Site auditSiteCmd `cmd:"" default:"withargs" help:"What is leaked, strange, different, missing or newer than the database, whose it is and the command that puts it right; the ledger."`
	Log  auditLogCmd  `cmd:"" help:"What operators did: list, and verify that no line was changed or removed."`
}

type auditLogCmd struct {
	Show   auditLogShowCmd   `cmd:"" default:"withargs" help:"The newest lines, oldest first."`
	Verify auditLogVerifyCmd `cmd:"" help:"Walk the whole trail and name the first line that is missing or not what was written."`
}

type auditLogShowCmd struct {
	Last int `help:"So many lines, at most 1000." default:"50"`
}

// Run prints the newest lines.
func (c auditLogShowCmd) Run(e *env) error {
	if c.Last < 1 || c.Last > 1000 {
		return hinted{error: errors.New("--last is a number from 1 to 1000"), next: "slipway audit log --last 50", code: exitUsage}
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	defer client.Close()
	trail, err := readTrail(e.ctx, client, 0, 0)
	if err != nil {
		return err
	}
	if trail, err = readTrail(e.ctx, client, max(0, trail.Head.ID-int64(c.Last)), c.Last); err != nil {
		return err
	}
	return e.print(trail, func(t table.Writer) {
		t.AppendHeader(table.Row{"line", "at", "actor", "verb", "subject", "reason"})
		for _, l := range trail.Acts {
			t.AppendRow(table.Row{l.ID, l.At.Local().Format(time.DateTime), l.Actor, l.Verb, l.Subject, l.Reason})
		}
	})
}

func readTrail(ctx context.Context, client *api.Client, after int64, limit int) (trail api.Trail, err error) {
	q := url.Values{"after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(limit)}}
	err = client.Get(ctx, "/v1/audit/log?"+q.Encode(), &trail)
	return trail, err
}

type auditLogVerifyCmd struct {
	Expect []string `help:"A head that was kept apart, as LINE:HASH; the trail must still hold it. May be repeated." placeholder:"LINE:HASH" sep:"none"`
}

// verified is the answer as JSON.
type verified struct {
	Holds   bool   `json:"holds"`
	Head    string `json:"head"` // the last line that was followed
	Problem string `json:"problem,omitempty"`
}

// Run hashes every line here, a page at a time.
func (c auditLogVerifyCmd) Run(e *env) error {
	var kept []orchestrator.ActHead
	for _, text := range c.Expect {
		head, err := parseHead(text)
		if err != nil {
			return hinted{error: err, next: "slipway audit log verify --help", code: exitUsage}
		}
		kept = append(kept, head)
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	defer client.Close()
	head, err := orchestrator.VerifyTrail(e.ctx, func(ctx context.Context, after int64, limit int) ([]orchestrator.Act, orchestrator.ActHead, error) {
		trail, err := readTrail(ctx, client, after, limit)
		acts := make([]orchestrator.Act, len(trail.Acts))
		for i, l := range trail.Acts {
			acts[i] = l.Act()
		}
		return acts, orchestrator.ActHead(trail.Head), err
	}, kept...)
	if err != nil && orchestrator.KindOf(err) != orchestrator.Permanent { // serve does not answer
		return err
	}
	out := verified{Holds: err == nil, Head: head.String()}
	if err != nil {
		out.Problem = err.Error()
	}
	if e.Output == "json" {
		if printed := e.print(out, nil); printed != nil {
			return printed
		}
	} else if err == nil {
		fmt.Fprintf(e.stdout, "%d lines, each as it was written and none missing\nhead %s\n", head.ID, out.Head)
		if len(kept) == 0 {
			fmt.Fprintln(e.stdout, "Keep the head apart from the database, and give it with --expect next time: without one, lines cut off the end do not show.")
		}
	}
	if err != nil {
		return hinted{error: err, next: "slipway audit log --last 50, and compare with the heads in the workers' logs (\"audit trail\")", code: exitFailure}
	}
	return nil
}

// parseHead reads what ActHead.String writes.
func parseHead(text string) (orchestrator.ActHead, error) {
	line, hash, _ := strings.Cut(text, ":")
	id, err := strconv.ParseInt(line, 10, 64)
	if err != nil || id < 1 || len(hash) != 64 || strings.Trim(hash, "0123456789abcdef") != "" {
		return orchestrator.ActHead{}, fmt.Errorf("--expect %q is not LINE:HASH, as verify and the workers' logs print it", text)
	}
	return orchestrator.ActHead{ID: id, Hash: hash}, nil
}
