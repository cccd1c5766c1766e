package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"slipway/workers/appliance/apply"
)

// MaxRequest bounds a request in bytes: 100,000 host blocks are 12 MB.
const MaxRequest = 64 << 20

// Apply is `slipway agent apply`: one request from stdin, one answer and a newline to stdout. Whatever is wrong with the request is in
// the answer; an error means that the configuration is unusable or that nobody could be told. When ctx ends while stdin is still being
// read and stdin is a Closer, it is closed.
func Apply(ctx context.Context, cfg Config, registry Registry, log *slog.Logger, stdin io.Reader, stdout io.Writer) error {
	a, err := New(cfg, registry, log)
	if err != nil {
		return err
	}
	return a.Serve(ctx, stdin, stdout)
}

// Serve is one exchange with an agent that exists already.
func (a *Agent) Serve(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	var answer apply.Answer
	if req, err := read(ctx, stdin); err != nil {
		answer = apply.Answer{Code: apply.Refused, Message: clean(err.Error())}
	} else {
		answer = a.Apply(ctx, req)
	}
	if err := json.NewEncoder(stdout).Encode(answer); err != nil {
		return fmt.Errorf("answer %s for generation %d: %w", answer.Code, answer.Generation, err)
	}
	return nil
}

func read(ctx context.Context, stdin io.Reader) (apply.Request, error) {
	if closer, ok := stdin.(io.Closer); ok {
		stop := context.AfterFunc(ctx, func() { _ = closer.Close() })
		defer stop()
	}
	return Decode(stdin)
}

// Decode reads exactly one request of at most MaxRequest bytes and refuses fields that it does not know.
func Decode(r io.Reader) (apply.Request, error) {
	bounded := &io.LimitedReader{R: r, N: MaxRequest + 1}
	decoder := json.NewDecoder(bounded)
	decoder.DisallowUnknownFields()
	var req apply.Request
	err := decoder.Decode(&req)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the request")
		}
	}
	if bounded.N <= 0 {
		err = fmt.Errorf("more than %d bytes", MaxRequest)
	}
	if err != nil {
		return apply.Request{}, fmt.Errorf("request: %w", err)
	}
	return req, nil
}

// validate is nil for a request that this unit can be asked for.
// maxKnown bounds Request.Known.
const maxKnown = 1000

func validate(req apply.Request, places []place) error {
	if req.Fence < 0 || req.Generation < 0 || req.Rows < 0 {
		return fmt.Errorf("fence %d, generation %d, rows %d: none may be negative", req.Fence, req.Generation, req.Rows)
	}
	if len(req.Known) > maxKnown {
		return fmt.Errorf("%d known states are more than %d", len(req.Known), maxKnown)
	}
	known := map[string]bool{}
	for _, p := range places {
		known[p.name] = true
	}
	seen := map[string]bool{}
	for _, f := range req.Files {
		if !known[f.Name] {
			return fmt.Errorf("file %q is not one of unit %q", f.Name, req.Unit)
		}
		if seen[f.Name] {
			return fmt.Errorf("file %q is given twice", f.Name)
		}
		seen[f.Name] = true
	}
	for _, p := range places {
		if !seen[p.name] {
			return fmt.Errorf("file %q of unit %q is missing: a request carries the whole state", p.name, req.Unit)
		}
	}
	for _, addr := range req.Cut {
		if !addr.IsValid() {
			return errors.New("cut: an empty address")
		}
	}
	if sum := apply.Sum(req.Files); sum != req.SHA256 {
		return fmt.Errorf("the files' hash is %s and the request says %q", sum, req.SHA256)
	}
	return nil
}
