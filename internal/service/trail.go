package service

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// maxTrail bounds a page of the audit trail.
const maxTrail = 1000

// getTrail reads a page. Who verifies the trail hashes it himself: serve's word is none of the proof.
func (s *Service) getTrail(r *http.Request) (any, error) {
	number := func(name string, least, most int64) (int64, error) {
		n, err := strconv.ParseInt(r.URL.Query().Get(name), 10, 64)
		if err != nil || n < least || n > most {
			return 0, orchestrator.FieldErrors{{Field: name, Problem: "is not a number of lines", Fix: fmt.Sprintf("give one from %d to %d", least, most)}}
		}
		return n, nil
	}
	after, err := number("after", 0, 1<<62)
	if err != nil {
		return nil, err
	}
	limit, err := number("limit", 0, maxTrail)
	if err != nil {
		return nil, err
	}
	acts, head, err := s.Store.Acts(r.Context(), after, int(limit))
	if err != nil {
		return nil, err
	}
	out := api.Trail{Acts: make([]api.TrailLine, len(acts)), Head: api.TrailHead(head)}
	for i, a := range acts {
		a.At = a.At.UTC()
		out.Acts[i] = api.TrailLine(a)
	}
	return out, nil
}

// sayTrail puts the trail's head into the log when it has moved, and returns it. A log that leaves this machine is where a head is out of
// the reach of whoever can write the database.
func (s *Service) sayTrail(ctx context.Context, said orchestrator.ActHead) orchestrator.ActHead {
	_, head, err := s.Store.Acts(ctx, 0, 0)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("read the audit trail's head", "error", err)
		}
		return said
	}
	if head != said && head.Hash != "" {
		s.log.Info("audit trail", "lines", head.ID, "head", head.String())
	}
	return head
}

// recordOrder records an order that came by an operator's hand; its row names the operator as well. Orders of panels have only the row.
func (s *Service) recordOrder(ctx context.Context, body []byte, accepted orchestrator.Accepted) {
	var order struct{ Source, ID, Type string }
	if accepted.Repeated || json.Unmarshal(body, &order) != nil {
		return
	}
	if err := s.Store.RecordAct(ctx, actor(ctx), "order", order.Source+"/"+order.ID, order.Type); err != nil {
		s.log.Warn("an operator's order is not in the audit trail", "machine", accepted.Machine, "actor", actor(ctx), "error", err)
	}
}
