package message

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"slipway/orchestrator"
	"slipway/workers/queue"
)

// ContentType of every message.
const ContentType = "application/cloudevents+json; charset=utf-8"

const specVersion = "1.0"

// ParseOrder reads an order and checks all that can be checked without the estate. A refusal is orchestrator.FieldErrors; the order then
// has Source, ID and Type as far as they could be read, so that its panel can be told, and nothing else.
func ParseOrder(body []byte) (orchestrator.Order, error) {
	if problems := checkShape(body); len(problems) > 0 {
		return sender(body, problems), problems
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return orchestrator.Order{}, orchestrator.FieldErrors{problem(wholeMessage, "is not JSON", "send one CloudEvent as a JSON object")}
	}
	from := sender(body, nil)
	if problems := checkType(instance); len(problems) > 0 {
		return from, problems
	}
	shape, values, err := checkSchema(string(from.Type), instance)
	if err != nil {
		return from, err
	}
	if len(shape) > 0 {
		return from, append(shape, values...)
	}
	order, problems := decode(body)
	var more orchestrator.FieldErrors
	if err := order.Validate(); errors.As(err, &more) {
		problems = add(problems, more...)
	}
	problems = add(problems, values...)
	if len(problems) > 0 {
		return from, problems
	}
	return order, nil
}

// add appends what concerns fields of which nothing was said yet: the first word about a field is the most precise one.
func add(problems orchestrator.FieldErrors, more ...orchestrator.FieldError) orchestrator.FieldErrors {
	said := slices.Clone(problems)
	for _, p := range more {
		if !slices.ContainsFunc(said, func(s orchestrator.FieldError) bool { return covers(s.Field, p.Field) || covers(p.Field, s.Field) }) {
			problems = append(problems, p)
		}
	}
	return problems
}

// covers reports that a problem of field also is one of inner: "firewall[2]" covers "firewall[2].source".
func covers(field, inner string) bool {
	rest, ok := strings.CutPrefix(inner, field)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// sender reads who sent a message and under which id, and of them what is fit to be repeated. A message with doubled keys tells nobody
// for certain who sent it.
func sender(body []byte, problems orchestrator.FieldErrors) orchestrator.Order {
	for _, p := range problems {
		if slices.Contains([]string{"source", "id", wholeMessage}, p.Field) {
			return orchestrator.Order{}
		}
	}
	var envelope map[string]json.RawMessage
	if json.Unmarshal(body, &envelope) != nil {
		return orchestrator.Order{}
	}
	attribute := func(name string) string {
		var text string
		if json.Unmarshal(envelope[name], &text) != nil || len(text) > 200 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return ""
		}
		return text
	}
	return orchestrator.Order{Source: attribute("source"), ID: attribute("id"), Type: orchestrator.OrderType(attribute("type"))}
}

// checkType chooses nothing by itself: a message that is no order at all is not judged by an order's schema.
func checkType(instance any) orchestrator.FieldErrors {
	object, ok := instance.(map[string]any)
	if !ok {
		return orchestrator.FieldErrors{problem(wholeMessage, "is not a JSON object", "send one CloudEvent as a JSON object")}
	}
	var known []string
	for _, typ := range orchestrator.OrderTypes() {
		known = append(known, string(typ))
	}
	oneOf := "write one of " + strings.Join(known, ", ")
	switch typ := object["type"].(type) {
	case nil:
		return orchestrator.FieldErrors{problem("type", "is missing", oneOf)}
	case string:
		if slices.Contains(known, typ) {
			return nil
		}
		fix := oneOf
		if near, ok := nearest(typ, known); ok {
			fix = fmt.Sprintf("did you mean %s?", near)
		}
		return orchestrator.FieldErrors{problem("type", fmt.Sprintf("%q is not an order", clip(typ)), fix)}
	default:
		return orchestrator.FieldErrors{problem("type", "is not a string", oneOf)}
	}
}

type wireOrder struct {
	SpecVersion     string                 `json:"specversion"`
	ID              string                 `json:"id"`
	Source          string                 `json:"source"`
	Type            orchestrator.OrderType `json:"type"`
	Time            string                 `json:"time,omitempty"`
	DataContentType string                 `json:"datacontenttype,omitempty"`
	Data            wireData               `json:"data"`
}

type wireData struct {
	Tenant   string     `json:"tenant"`
	Name     string     `json:"name,omitempty"`
	Hostname string     `json:"hostname,omitempty"`
	Image    string     `json:"image,omitempty"`
	Plan     *wirePlan  `json:"plan,omitempty"`
	Pool     string     `json:"pool,omitempty"`
	Firewall []wireRule `json:"firewall,omitempty"`
	SSHKeys  []string   `json:"ssh_keys,omitempty"`
	Deadline string     `json:"deadline,omitempty"`
	Machine  string     `json:"machine,omitempty"`

	NewConsolePassword bool   `json:"new_console_password,omitempty"`
	Power              string `json:"power,omitempty"`

	Viewer      string `json:"viewer,omitempty"`
	From        string `json:"from,omitempty"`
	TokenSHA256 string `json:"token_sha256,omitempty"`
}

type wirePlan struct {
	VCPUs     json.Number `json:"vcpus"`
	MemoryMiB json.Number `json:"memory_mib"`
	DiskGiB   json.Number `json:"disk_gib"`
}

type wireRule struct {
	Protocol string     `json:"protocol"`
	Source   string     `json:"source"`
	Ports    []wirePort `json:"ports,omitempty"`
}

// wirePort is "22", "8000-8080" or 22.
type wirePort string

func (p *wirePort) UnmarshalJSON(text []byte) error {
	var s string
	if len(text) > 0 && text[0] == '"' {
		err := json.Unmarshal(text, &s)
		*p = wirePort(s)
		return err
	}
	*p = wirePort(text)
	return nil
}

// decode reads a message whose shape is right into an order, and says what no order can hold.
func decode(body []byte) (orchestrator.Order, orchestrator.FieldErrors) {
	var w wireOrder
	if err := json.Unmarshal(body, &w); err != nil {
		return orchestrator.Order{}, orchestrator.FieldErrors{problem(wholeMessage, "cannot be read: "+clip(err.Error()), "see `slipway schema`")}
	}
	d := decoder{}
	order := orchestrator.Order{
		Source: w.Source, ID: w.ID, Type: w.Type, Tenant: w.Data.Tenant, Name: w.Data.Name, Machine: w.Data.Machine,
	}
	order.NewConsolePassword, order.Power = w.Data.NewConsolePassword, orchestrator.PowerPolicy(w.Data.Power)
	if w.Type == orchestrator.OrderConsole {
		d.console(&order, w.Data)
	}
	if w.Type != orchestrator.OrderInstall && w.Type != orchestrator.OrderReconfigure {
		return order, d.problems
	}
	d.access(&order, w.Data)
	if w.Type == orchestrator.OrderReconfigure {
		return order, d.problems
	}
	order.Image, order.Pool = w.Data.Image, w.Data.Pool
	if plan := w.Data.Plan; plan != nil {
		order.Plan = orchestrator.Plan{
			VCPUs:     int(d.integer("plan.vcpus", plan.VCPUs)),
			MemoryMiB: d.integer("plan.memory_mib", plan.MemoryMiB),
			DiskGiB:   d.integer("plan.disk_gib", plan.DiskGiB),
		}
	}
	if w.Data.Deadline != "" {
		at, err := time.Parse(time.RFC3339, w.Data.Deadline)
		if err != nil {
			d.problems = append(d.problems, problem("deadline", "is not a date-time", formatFix("date-time")))
		}
		order.Deadline = at.UTC()
	}
	return order, d.problems
}

type decoder struct{ problems orchestrator.FieldErrors }

// access reads what may differ between a machine's install and later: an empty list is one, and not an absent one.
func (d *decoder) access(order *orchestrator.Order, data wireData) {
	order.Hostname = data.Hostname
	if data.Firewall != nil {
		order.Firewall = []orchestrator.FirewallRule{}
	}
	for i, rule := range data.Firewall {
		order.Firewall = append(order.Firewall, d.rule(fmt.Sprintf("firewall[%d]", i), rule))
	}
	if data.SSHKeys != nil {
		order.SSHKeys = []string{}
	}
	for i, line := range data.SSHKeys {
		field := fmt.Sprintf("ssh_keys[%d]", i)
		if what, fix := keyProblem(line); what != "" {
			d.problems = append(d.problems, problem(field, what, fix))
		}
		order.SSHKeys = append(order.SSHKeys, line)
	}
}

func (d *decoder) console(order *orchestrator.Order, data wireData) {
	order.Viewer = data.Viewer
	if data.From != "" {
		from, err := netip.ParseAddr(data.From)
		if err != nil {
			d.problems = append(d.problems, problem("from", "is not an address", "give the viewer's address, or leave it out"))
		}
		order.ViewerFrom = from
	}
	if order.TokenHash.UnmarshalText([]byte(data.TokenSHA256)) != nil {
		d.problems = append(d.problems, problem("token_sha256", "is not 64 hex digits", "give the SHA-256 of 32 random bytes"))
	}
}

func (d *decoder) integer(field string, n json.Number) int64 {
	// JSON Schema takes 2.0 for an integer.
	whole, fraction, _ := strings.Cut(n.String(), ".")
	value, err := json.Number(whole).Int64()
	if err != nil || strings.Trim(fraction, "0") != "" || value > 1<<31 || value < -1<<31 {
		d.problems = append(d.problems, problem(field, clip(n.String())+" is out of range", "see `slipway schema order.install`"))
		return 0
	}
	return value
}

func (d *decoder) rule(field string, w wireRule) orchestrator.FirewallRule {
	rule := orchestrator.FirewallRule{Protocol: w.Protocol}
	source, err := orchestrator.ParsePrefix(w.Source)
	if err != nil {
		d.problems = append(d.problems, problem(field+".source", fmt.Sprintf("%q is not an address range", clip(w.Source)),
			"write one such as 203.0.113.0/24; 0.0.0.0/0 is everybody"))
	}
	rule.Source = source
	for i, text := range w.Ports {
		var ports orchestrator.PortRange
		if err := ports.UnmarshalText([]byte(text)); err != nil {
			d.problems = append(d.problems, problem(fmt.Sprintf("%s.ports[%d]", field, i), fmt.Sprintf("%q is not a port", clip(string(text))),
				"write 1 to 65535, or a range such as \"8000-8080\""))
		}
		rule.Ports = append(rule.Ports, ports)
	}
	return rule
}

// EncodeOrder is the message that ParseOrder reads as the order.
func EncodeOrder(o orchestrator.Order) (queue.Message, error) {
	if err := o.Validate(); err != nil {
		return queue.Message{}, err
	}
	w := wireOrder{
		SpecVersion: specVersion, ID: o.ID, Source: o.Source, Type: o.Type, DataContentType: "application/json",
		Data: wireData{Tenant: o.Tenant, Name: o.Name, Machine: o.Machine},
	}
	w.Data.NewConsolePassword, w.Data.Power = o.NewConsolePassword, string(o.Power)
	w.Data.Hostname, w.Data.SSHKeys = o.Hostname, o.SSHKeys
	if o.Type == orchestrator.OrderConsole {
		w.Data.Viewer, w.Data.TokenSHA256 = o.Viewer, hex.EncodeToString(o.TokenHash[:])
		if o.ViewerFrom.IsValid() {
			w.Data.From = o.ViewerFrom.String()
		}
	}
	for _, rule := range o.Firewall {
		wired := wireRule{Protocol: rule.Protocol, Source: rule.Source.String()}
		for _, p := range rule.Ports {
			wired.Ports = append(wired.Ports, wirePort(p.String()))
		}
		w.Data.Firewall = append(w.Data.Firewall, wired)
	}
	switch {
	case o.Type == orchestrator.OrderReconfigure && o.Firewall != nil && len(o.Firewall) == 0:
		return marshal(o.ID, string(o.Type), "", w.withEmptyRules())
	case o.Type != orchestrator.OrderInstall:
		return marshal(o.ID, string(o.Type), "", w)
	}
	w.Data.Image, w.Data.Pool = o.Image, o.Pool
	w.Data.Plan = &wirePlan{
		VCPUs: number(int64(o.Plan.VCPUs)), MemoryMiB: number(o.Plan.MemoryMiB), DiskGiB: number(o.Plan.DiskGiB),
	}
	if !o.Deadline.IsZero() {
		w.Data.Deadline = o.Deadline.UTC().Format(time.RFC3339Nano)
	}
	return marshal(o.ID, string(o.Type), "", w.withEmptyLists())
}

// withEmptyLists keeps the lists that an install must have, also when they are empty.
func (w wireOrder) withEmptyLists() any {
	type data struct {
		wireData
		Firewall []wireRule `json:"firewall"`
		SSHKeys  []string   `json:"ssh_keys"`
	}
	type order struct {
		wireOrder
		Data data `json:"data"`
	}
	return order{w, data{w.Data, append([]wireRule{}, w.Data.Firewall...), append([]string{}, w.Data.SSHKeys...)}}
}

// withEmptyRules keeps the empty list that closes a machine.
func (w wireOrder) withEmptyRules() any {
	type data struct {
		wireData
		Firewall []wireRule `json:"firewall"`
	}
	type order struct {
		wireOrder
		Data data `json:"data"`
	}
	return order{w, data{w.Data, []wireRule{}}}
}

func number(n int64) json.Number { return json.Number(fmt.Sprint(n)) }

func marshal(id, typ, key string, content any) (queue.Message, error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(content); err != nil {
		return queue.Message{}, orchestrator.Errorf("message.Encode", orchestrator.Permanent, "%s %s: %w", typ, id, err)
	}
	return queue.Message{ID: id, Type: typ, Key: key, ContentType: ContentType, Body: bytes.TrimSpace(body.Bytes())}, nil
}
