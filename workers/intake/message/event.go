package message

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"slipway/orchestrator"
	"slipway/workers/queue"
)

// Event is an event as it is on the wire.
type Event struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject,omitempty"` // the machine's id
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	Seq             int64           `json:"seq,omitempty"` // 1, 2, 3 … per machine; 0 without one
	Data            json.RawMessage `json:"data"`
}

// EncodeEvent makes a CloudEvent of an outbox's event; source names this slipway. The same event always has the same id: its machine and
// seq, or for an order that became no machine a hash of what it says.
func EncodeEvent(source string, e orchestrator.Event) (queue.Message, error) {
	wire := Event{
		SpecVersion: specVersion, ID: eventID(e), Source: source, Type: e.Type, Subject: e.Machine, Time: e.Time.UTC(),
		DataContentType: "application/json", Data: e.Data,
	}
	if e.Machine != "" {
		wire.Seq = e.Seq
	}
	return marshal(wire.ID, wire.Type, wire.Subject, wire)
}

func eventID(e orchestrator.Event) string {
	if e.Machine != "" {
		return fmt.Sprintf("%s/%d", e.Machine, e.Seq)
	}
	h := sha256.New()
	for _, part := range []string{e.Type, e.Order.Source, e.Order.ID, string(e.Data)} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part) // a hash never fails to write
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// ParseEvent reads what EncodeEvent made, for listeners in Go.
func ParseEvent(body []byte) (Event, orchestrator.EventData, error) {
	var e Event
	var data orchestrator.EventData
	err := json.Unmarshal(body, &e)
	if err == nil {
		err = json.Unmarshal(e.Data, &data)
	}
	if err != nil {
		return e, data, orchestrator.Errorf("message.ParseEvent", orchestrator.Permanent, "not an event: %w", err)
	}
	return e, data, nil
}
