package xapi

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
)

// object is one row. Its generation numbers order the events; objects of a class hang on a list with the last change at its end, so that
// event.from reads what is new and nothing else.
type object struct {
	class             *class
	ref               string
	vals              []any
	created, modified int64
	prev, next        *object
}

type deletion struct {
	ref                       string
	created, last, generation int64
}

type table struct {
	class      *class
	objs       map[string]*object
	byUUID     map[string]*object
	byName     map[string]map[string]*object
	head, tail *object
	gone       []deletion
	newest     int64 // generation of the last change or deletion
}

// goneKept bounds what a table remembers of its deleted rows. A client that slept through more of them gets its next answer without
// those deletions, as if the objects had been gone before its token.
const goneKept = 20000

// database is the pool's state. Everything in it is guarded by Server.mu.
type database struct {
	model      *datamodel
	tables     map[*class]*table
	objs       map[string]*object
	generation int64
	dirty      map[*class]bool // classes changed since the last wake-up of event.from
	rng        *rand.Rand      // references, uuids, MACs: the same seed gives the same pool
}

func newDatabase(m *datamodel, seed uint64) *database {
	db := &database{
		model: m, tables: map[*class]*table{}, objs: map[string]*object{}, dirty: map[*class]bool{},
		rng: rand.New(rand.NewPCG(seed, 0x5851f42d4c957f2d)),
	}
	for _, c := range m.classes {
		db.tables[c] = &table{class: c, objs: map[string]*object{}, byUUID: map[string]*object{}, byName: map[string]map[string]*object{}}
	}
	return db
}

func (db *database) newUUID() string {
	var b [16]byte
	for i := range b {
		b[i] = byte(db.rng.Uint32())
	}
	return formatUUID(b)
}

func formatUUID(b [16]byte) string {
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func (db *database) class(name string) *class { return db.model.byClass[name] }

// create makes a row with the given values; the rest gets its default. The uuid is made unless it is given.
func (db *database) create(className string, values map[string]any) *object {
	return db.createRef(className, "OpaqueRef:"+db.newUUID(), values)
}

func (db *database) createRef(className, ref string, values map[string]any) *object {
	c := db.class(className)
	o := &object{class: c, ref: ref, vals: make([]any, len(c.fields))}
	for i, f := range c.fields {
		o.vals[i] = f.deflt
		if v, ok := values[f.name]; ok {
			o.vals[i] = v
		}
	}
	if o.str("uuid") == "" {
		o.put("uuid", db.newUUID())
	}
	t := db.tables[c]
	t.objs[ref], db.objs[ref] = o, o
	t.byUUID[o.str("uuid")] = o
	t.name(o, "", o.label())
	db.generation++
	o.created = db.generation
	db.bump(o)
	return o
}

func (db *database) bump(o *object) {
	t := db.tables[o.class]
	t.unlink(o)
	o.modified = db.generation
	t.link(o)
	t.newest = db.generation
	db.dirty[o.class] = true
}

// touch marks an object changed without changing it (event.inject).
func (db *database) touch(o *object) {
	db.generation++
	db.bump(o)
}

// set writes a field. Writing the value that is there is no change.
func (db *database) set(o *object, name string, v any) {
	f := o.class.byField[name]
	if f == nil || same(o.vals[f.index], v) {
		return
	}
	if name == "name_label" {
		db.tables[o.class].name(o, o.label(), v.(string))
	}
	o.vals[f.index] = v
	db.generation++
	db.bump(o)
}

func (db *database) destroy(o *object) {
	t := db.tables[o.class]
	if t.objs[o.ref] != o {
		return
	}
	delete(t.objs, o.ref)
	delete(db.objs, o.ref)
	delete(t.byUUID, o.str("uuid"))
	t.name(o, o.label(), "")
	t.unlink(o)
	db.generation++
	t.gone = append(t.gone, deletion{ref: o.ref, created: o.created, last: o.modified, generation: db.generation})
	if len(t.gone) > 2*goneKept {
		t.gone = slices.Clone(t.gone[len(t.gone)-goneKept:])
	}
	t.newest = db.generation
	db.dirty[o.class] = true
}

// link puts an object into a reference and its back reference: db.link(vm, "VIFs", vif).
func (db *database) link(o *object, field string, ref string) {
	db.set(o, field, with(o.set(field), ref))
}

func (db *database) unlink(o *object, field string, ref string) {
	if o != nil {
		db.set(o, field, without(o.set(field), ref))
	}
}

// get finds an object of a class; nil when there is none.
func (db *database) get(className, ref string) *object {
	if o := db.objs[ref]; o != nil && o.class.name == className {
		return o
	}
	return nil
}

// all lists a class, oldest row first.
func (db *database) all(className string) []*object {
	t := db.tables[db.class(className)]
	out := make([]*object, 0, len(t.objs))
	for _, o := range t.objs {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b *object) int { return int(a.created - b.created) })
	return out
}

func (t *table) link(o *object) {
	o.prev, o.next = t.tail, nil
	if t.tail != nil {
		t.tail.next = o
	} else {
		t.head = o
	}
	t.tail = o
}

func (t *table) unlink(o *object) {
	switch {
	case o.prev != nil:
		o.prev.next = o.next
	case t.head == o:
		t.head = o.next
	}
	switch {
	case o.next != nil:
		o.next.prev = o.prev
	case t.tail == o:
		t.tail = o.prev
	}
	o.prev, o.next = nil, nil
}

func (t *table) name(o *object, old, label string) {
	if old != "" {
		delete(t.byName[old], o.ref)
		if len(t.byName[old]) == 0 {
			delete(t.byName, old)
		}
	}
	if label != "" {
		if t.byName[label] == nil {
			t.byName[label] = map[string]*object{}
		}
		t.byName[label][o.ref] = o
	}
}

func (o *object) label() string {
	if o.class.byField["name_label"] == nil {
		return ""
	}
	return o.str("name_label")
}

// put writes without an event; only for rows that nobody has seen.
func (o *object) put(name string, v any) { o.vals[o.class.byField[name].index] = v }

func (o *object) get(name string) any { return o.vals[o.class.byField[name].index] }

func (o *object) str(name string) string {
	s, _ := o.get(name).(string)
	return s
}

func (o *object) num(name string) int64 {
	n, _ := o.get(name).(int64)
	return n
}

func (o *object) flag(name string) bool {
	b, _ := o.get(name).(bool)
	return b
}

func (o *object) set(name string) []any {
	s, _ := o.get(name).([]any)
	return s
}

func (o *object) dict(name string) map[string]any {
	m, _ := o.get(name).(map[string]any)
	return m
}

func (o *object) snapshot() *record { return &record{class: o.class, vals: slices.Clone(o.vals)} }

// refs resolves a field that holds references of one class; rows that are gone are left out.
func (db *database) refs(o *object, field string) []*object {
	set := o.set(field)
	out := make([]*object, 0, len(set))
	for _, v := range set {
		if r, ok := v.(string); ok {
			if x := db.objs[r]; x != nil {
				out = append(out, x)
			}
		}
	}
	return out
}

// derivedMAC is the address xapi gives to a VIF without one: locally administered, from the VM's seed and the device.
func derivedMAC(seed, device string) string {
	h := md5.Sum([]byte(seed + "/" + device))
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", h[0]&0xfc|2, h[1], h[2], h[3], h[4], h[5])
}
