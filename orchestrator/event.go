package orchestrator

import (
	"encoding/json"
	"time"
)

// Types of the events that a panel hears.
const (
	EventAccepted   = "slipway.run.accepted"
	EventWaiting    = "slipway.run.waiting"
	EventParked     = "slipway.run.parked"
	EventRewound    = "slipway.run.rewound"
	EventDone       = "slipway.run.done"
	EventCanceled   = "slipway.run.canceled"
	EventStepDone   = "slipway.step.done"
	EventStepFailed = "slipway.step.failed"
	EventConflict   = "slipway.order.conflict"
	EventRefused    = "slipway.order.refused"

	// What a machine has become, told beside EventDone.
	EventReconfigured = "slipway.machine.reconfigured"
	EventSuspended    = "slipway.machine.suspended"
	EventUnsuspended  = "slipway.machine.unsuspended"
	EventConsole      = "slipway.console.issued"
)

// Event is one line of the outbox: committed with what it tells, published afterwards, in the order of Seq for each machine.
type Event struct {
	ID      int64 // the outbox's own, set by the store
	Type    string
	Machine string // CloudEvents subject; "" for an order that became no machine
	Seq     int64  // 1, 2, 3 … per machine, set by the store
	Time    time.Time
	Order   OrderKey
	Data    json.RawMessage // EventData
}

// EventData is the body of every event about a run.
type EventData struct {
	Run         string   `json:"run,omitempty"`
	Machine     string   `json:"machine,omitempty"`
	Tenant      string   `json:"tenant,omitempty"`
	Name        string   `json:"name,omitempty"`
	Process     string   `json:"process,omitempty"`
	Pool        string   `json:"pool,omitempty"` // slipway.guard.halted
	State       State    `json:"state,omitempty"`
	Status      Status   `json:"status,omitempty"`
	Step        string   `json:"step,omitempty"`
	Attempt     int      `json:"attempt,omitempty"`
	Outcome     string   `json:"outcome,omitempty"`
	Kind        Kind     `json:"kind,omitempty"`
	Message     string   `json:"message,omitempty"`
	Exits       []string `json:"exits,omitempty"`  // what an operator can do with a parked run
	Fields      []string `json:"fields,omitempty"` // slipway.order.conflict: which fields differ
	Private     string   `json:"private,omitempty"`
	Public      string   `json:"public,omitempty"`
	HostKey     string   `json:"host_key,omitempty"`
	Source      string   `json:"order_source"`
	OrderID     string   `json:"order_id"`
	ConsolePort uint16   `json:"console_port,omitempty"`
	// ConsoleAddress is where customers reach ConsolePort, a name or an address; "" when no member of the console group was given one.
	ConsoleAddress string `json:"console_address,omitempty"`
	// ConsoleAge is the machine's console password: an armored age file, encrypted to its SSH keys, and never the password itself.
	ConsoleAge string `json:"console_password_age,omitempty"`
	// slipway.console.issued: the page that the panel's token opens, behind a #, and until when.
	ConsoleURL     string     `json:"console_url,omitempty"`
	ConsoleExpires *time.Time `json:"console_expires,omitempty"`
	// AdministratorAge is the first password of a Windows machine's built-in administrator: an armored age file, encrypted to the order's
	// SSH keys, and never the password itself.
	AdministratorAge string      `json:"administrator_password_age,omitempty"`
	Errors           FieldErrors `json:"errors,omitempty"` // slipway.order.refused
}

// NewEvent makes one; Data of this shape always marshals.
func NewEvent(typ string, at time.Time, data EventData) Event {
	body, err := json.Marshal(data)
	if err != nil {
		body = []byte(`{}`)
	}
	return Event{Type: typ, Machine: data.Machine, Time: at, Order: OrderKey{Source: data.Source, ID: data.OrderID}, Data: body}
}
