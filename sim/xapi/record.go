package xapi

import (
	"slices"
	"strings"
)

// field is the field that a generated message is about: get_x, set_x, add_to_x, remove_from_x, add_x, remove_x.
func (m *message) field() *field {
	for _, prefix := range []string{"add_to_", "remove_from_", "get_", "set_", "add_", "remove_"} {
		if name, ok := strings.CutPrefix(m.name, prefix); ok {
			if f := m.class.byField[name]; f != nil {
				return f
			}
		}
	}
	return nil
}

// generated answers the messages that xapi makes from a class and its fields.
func (c *call) generated(args []any) (any, error) {
	db, cl := c.s.db, c.msg.class
	switch c.msg.name {
	case "get_all":
		out := []any{}
		for _, o := range db.all(cl.name) {
			out = append(out, o.ref)
		}
		return out, nil
	case "get_all_records":
		return db.records(cl, nil), nil
	case "get_all_records_where":
		q, err := parseQuery(cl, args[0].(string))
		if err != nil {
			return nil, err
		}
		return db.records(cl, q), nil
	case "get_by_uuid":
		uuid := args[0].(string)
		if o := db.tables[cl].byUUID[uuid]; o != nil {
			return o.ref, nil
		}
		return nil, fail("UUID_INVALID", cl.name, uuid)
	case "get_by_name_label":
		found := []*object{}
		for _, o := range db.tables[cl].byName[args[0].(string)] {
			found = append(found, o)
		}
		slices.SortFunc(found, func(a, b *object) int { return int(a.created - b.created) })
		out := make([]any, len(found))
		for i, o := range found {
			out[i] = o.ref
		}
		return out, nil
	case "get_record":
		o, err := c.object(cl.name, args[0])
		if err != nil {
			return nil, err
		}
		return o.snapshot(), nil
	}
	f := c.msg.field()
	if f == nil || len(args) == 0 {
		return nil, fail("NOT_IMPLEMENTED", c.msg.full)
	}
	o, err := c.object(cl.name, args[0])
	if err != nil {
		return nil, err
	}
	return c.access(o, f, args[1:])
}

// access reads or writes one field of one object.
func (c *call) access(o *object, f *field, args []any) (any, error) {
	db := c.s.db
	switch name := c.msg.name; {
	case name == "get_"+f.name:
		return o.get(f.name), nil
	case name == "set_"+f.name:
		db.set(o, f.name, args[0])
	case name == "add_to_"+f.name:
		key := args[0].(string)
		if _, there := o.dict(f.name)[key]; there {
			return nil, fail("MAP_DUPLICATE_KEY", o.class.name, f.name, o.ref, key)
		}
		db.set(o, f.name, withKey(o.dict(f.name), key, args[1]))
	case name == "remove_from_"+f.name:
		db.set(o, f.name, withoutKey(o.dict(f.name), args[0].(string)))
	case name == "add_"+f.name:
		if !slices.Contains(o.set(f.name), args[0]) {
			db.set(o, f.name, append(slices.Clone(o.set(f.name)), args[0]))
		}
	case name == "remove_"+f.name:
		db.set(o, f.name, without(o.set(f.name), args[0]))
	}
	return nil, nil
}

func (db *database) records(cl *class, q query) map[string]any {
	t := db.tables[cl]
	out := make(map[string]any, len(t.objs))
	for ref, o := range t.objs {
		if q == nil || q(o) {
			out[ref] = o.snapshot()
		}
	}
	return out
}

// construct reads the record of a create message: every field that a constructor sets and that has no default has to be there.
func (c *call) construct(arg any) (map[string]any, error) {
	in, _ := arg.(map[string]any)
	out := map[string]any{}
	for _, f := range c.msg.class.fields {
		if f.qual == "ro" {
			continue
		}
		v, there := in[f.name]
		if !there {
			if f.must {
				return nil, internal(`Server_helpers.Dispatcher_FieldNotFound("` + f.name + `")`)
			}
			continue
		}
		x, err := c.s.db.model.convert(f.typ, v)
		if err != nil {
			return nil, err
		}
		out[f.name] = x
	}
	return out, nil
}
