package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os/exec"
	"time"

	"slipway/internal/config"
	"slipway/orchestrator"
)

// notifier tells operators of runs that park and of what an audit finds: a webhook, a command, or nobody. A notice that cannot be delivered in three tries is
// dropped and logged: the run stays parked and listed whatever happens here.
type notifier struct {
	cfg    config.Notify
	log    *slog.Logger
	events chan orchestrator.Event
}

func newNotifier(cfg config.Notify, log *slog.Logger) *notifier {
	return &notifier{cfg: cfg, log: log, events: make(chan orchestrator.Event, 1000)}
}

// findNotify looks for the program of notify.command, so that it is missed before the first notice.
func findNotify(n config.Notify) error {
	if len(n.Command) == 0 {
		return nil
	}
	if _, err := exec.LookPath(n.Command[0]); err != nil {
		return orchestrator.FieldErrors{{Field: "notify.command", Problem: err.Error(), Fix: "name a program that may be executed, by its whole path, or leave it out"}}
	}
	return nil
}

// tell never blocks.
func (n *notifier) tell(e orchestrator.Event) {
	if n.cfg.Webhook == "" && len(n.cfg.Command) == 0 {
		return
	}
	select {
	case n.events <- e:
	default:
		n.log.Warn("notice dropped: too many are waiting", "machine", e.Machine)
	}
}

func (n *notifier) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-n.events:
			n.deliver(ctx, e)
		}
	}
}

func (n *notifier) deliver(ctx context.Context, e orchestrator.Event) {
	body, err := json.Marshal(struct {
		Type string          `json:"type"`
		Time time.Time       `json:"time"`
		Data json.RawMessage `json:"data"`
	}{e.Type, e.Time, e.Data})
	if err != nil {
		n.log.Error("notice", "error", err)
		return
	}
	for _, way := range []func(context.Context, []byte) error{n.post, n.command} {
		for try := range 3 {
			if err = way(ctx, body); err == nil || ctx.Err() != nil {
				break
			}
			timer := time.NewTimer(time.Second << try)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
		}
		if err != nil {
			n.log.Error("notice not delivered", "machine", e.Machine, "error", err)
		}
	}
}

func (n *notifier) post(ctx context.Context, body []byte) error {
	if n.cfg.Webhook == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, n.cfg.Webhook, bytes.NewReader(body))
	if err != nil {
		return withoutURL(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return withoutURL(err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return fmt.Errorf("the webhook answered %s", response.Status)
	}
	return nil
}

// withoutURL leaves out the address that net/http puts into its errors: whoever knows a webhook's may post to it.
func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return fmt.Errorf("the webhook: %w", of.Err)
	}
	return err
}

func (n *notifier) command(ctx context.Context, body []byte) error {
	if len(n.cfg.Command) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.cfg.Command[0], n.cfg.Command[1:]...)
	cmd.Stdin = bytes.NewReader(body)
	cmd.WaitDelay = time.Second
	return cmd.Run()
}
