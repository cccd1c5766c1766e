package xapi

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"time"
)

// stateFile keeps a pool's rows over the death of its process, as xapi's own database does: what an answer tells has been written before.
// Each line is one JSON object: all that changed between two moments at which somebody could look. A line that a kill has cut short never
// was answered, and is left out.
type stateFile struct {
	file  *os.File
	saved int64 // generation of what was written last
}

// keptRow is a row after a change; keptLoss is one that is gone. Values are by field, as on the wire.
type keptRow struct {
	Class    string         `json:"class"`
	Ref      string         `json:"ref"`
	Created  int64          `json:"created"`
	Modified int64          `json:"modified"`
	Values   map[string]any `json:"values"`
}

type keptLoss struct {
	Class      string `json:"class"`
	Ref        string `json:"ref"`
	Created    int64  `json:"created"`
	Last       int64  `json:"last"`
	Generation int64  `json:"generation"`
}

type keptLine struct {
	Rows []keptRow  `json:"rows"`
	Gone []keptLoss `json:"gone"`
}

// forgotten are the classes that a toolstack does not find again when it starts.
func forgotten(c *class) bool { return c.name == "task" || c.name == "session" }

// enableAfter is how long after a start from kept state no VM can start; on a real pool it is some seconds more.
const enableAfter = time.Second

// resume takes up the pool that a file has, or begins the file with the pool that there is. The lock is held.
func (s *Server) resume(path string) error {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		s.seed()
		return s.rewrite(path)
	case err != nil:
		return err
	}
	if err := s.restore(text); err != nil {
		return fmt.Errorf("%s: %w: remove it to begin with a fresh pool", path, err)
	}
	s.wakeUp()
	return s.rewrite(path)
}

// rewrite writes everything into a file of its own, which then takes the place of the one that may be there.
func (s *Server) rewrite(path string) error {
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	s.state = &stateFile{file: file, saved: -1}
	for _, c := range s.db.model.classes {
		s.db.dirty[c] = true
	}
	err = s.keep()
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	return nil
}

// keep writes what changed since it was called last. The lock is held.
func (s *Server) keep() error {
	var b bytes.Buffer
	rows, gone := 0, 0
	for _, c := range s.db.model.classes {
		if t := s.db.tables[c]; s.db.dirty[c] && !forgotten(c) {
			for o := t.tail; o != nil && o.modified > s.state.saved; o = o.prev {
				writeRow(&b, &rows, `{"rows":[`, ordered{{"class", c.name}, {"ref", o.ref}, {"created", o.created}, {"modified", o.modified}, {"values", o.snapshot()}})
			}
		}
	}
	for _, c := range s.db.model.classes {
		if t := s.db.tables[c]; s.db.dirty[c] && !forgotten(c) {
			for i := len(t.gone) - 1; i >= 0 && t.gone[i].generation > s.state.saved; i-- {
				d := t.gone[i]
				opening := `],"gone":[`
				if rows == 0 {
					opening = `{"gone":[`
				}
				writeRow(&b, &gone, opening, ordered{{"class", c.name}, {"ref", d.ref}, {"created", d.created}, {"last", d.last}, {"generation", d.generation}})
			}
		}
	}
	s.state.saved = s.db.generation
	if rows+gone == 0 {
		return nil
	}
	b.WriteString("]}\n")
	_, err := s.state.file.Write(b.Bytes())
	return err
}

func writeRow(b *bytes.Buffer, n *int, opening string, row ordered) {
	if *n == 0 {
		b.WriteString(opening)
	} else {
		b.WriteByte(',')
	}
	*n++
	writeJSON(b, row)
}

// restore puts the kept rows into the empty database and does what the death of a toolstack does: sessions and tasks are gone, unfinished
// operations are over, VMs run on. The lock is held.
func (s *Server) restore(text []byte) error {
	gone := map[*class][]deletion{}
	lines := bufio.NewReader(bytes.NewReader(text))
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // whatever is left is the beginning of a line
		}
		if err != nil {
			return err
		}
		if err := s.restoreLine(line, gone); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	s.order(gone)
	s.hosts = s.db.all("host")
	pools := s.db.all("pool")
	if len(pools) != 1 || len(s.hosts) != s.cfg.Hosts {
		return fmt.Errorf("it has %d pools and %d hosts, want 1 and %d", len(pools), len(s.hosts), s.cfg.Hosts)
	}
	s.pool = pools[0]
	s.db.rng = rand.New(rand.NewPCG(s.cfg.Seed, uint64(s.db.generation))) // the first references have been given out
	for _, vm := range s.db.all("VM") {
		s.domid = max(s.domid, vm.num("domid"))
		s.db.set(vm, "scheduled_to_be_resident_on", nullRef)
	}
	s.interrupted()
	return nil
}

func (s *Server) restoreLine(line []byte, gone map[*class][]deletion) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	var kept keptLine
	if err := dec.Decode(&kept); err != nil {
		return err
	}
	db := s.db
	for _, row := range kept.Rows {
		c := db.class(row.Class)
		if c == nil {
			return fmt.Errorf("class %q is not known", row.Class)
		}
		o := &object{class: c, ref: row.Ref, vals: make([]any, len(c.fields)), created: row.Created, modified: row.Modified}
		for i, f := range c.fields {
			v, err := db.model.kept(f.typ, fromJSON(row.Values[f.name]))
			if err != nil {
				return fmt.Errorf("%s %s: %s: %w", row.Class, row.Ref, f.name, err)
			}
			o.vals[i] = v
		}
		db.tables[c].objs[row.Ref] = o
		db.generation = max(db.generation, row.Modified)
	}
	for _, loss := range kept.Gone {
		c := db.class(loss.Class)
		if c == nil {
			return fmt.Errorf("class %q is not known", loss.Class)
		}
		delete(db.tables[c].objs, loss.Ref)
		gone[c] = append(gone[c], deletion{ref: loss.Ref, created: loss.Created, last: loss.Last, generation: loss.Generation})
		db.generation = max(db.generation, loss.Generation)
	}
	return nil
}

// order builds what is found by uuid and name, and the order of changes by which events are read.
func (s *Server) order(gone map[*class][]deletion) {
	for c, t := range s.db.tables {
		rows := make([]*object, 0, len(t.objs))
		for _, o := range t.objs {
			rows = append(rows, o)
		}
		slices.SortFunc(rows, func(a, b *object) int { return cmp.Compare(a.modified, b.modified) })
		for _, o := range rows {
			s.db.objs[o.ref] = o
			t.byUUID[o.str("uuid")] = o
			t.name(o, "", o.label())
			t.link(o)
			t.newest = o.modified
		}
		t.gone = gone[c]
		slices.SortFunc(t.gone, func(a, b deletion) int { return cmp.Compare(a.generation, b.generation) })
		if n := len(t.gone); n > 0 {
			t.newest = max(t.newest, t.gone[n-1].generation)
		}
	}
}

// kept is convert for a value that was in the database: an enum that nobody set is no value of its type.
func (m *datamodel) kept(t *typ, v any) (any, error) {
	switch in := v.(type) {
	case string:
		if t.kind == kindEnum {
			return in, nil
		}
	case []any:
		if t.kind == kindSet {
			out := make([]any, 0, len(in))
			for _, item := range in {
				c, err := m.kept(t.val, item)
				if err != nil {
					return nil, err
				}
				out = append(out, c)
			}
			return out, nil
		}
	case map[string]any:
		if t.kind == kindMap {
			out := make(map[string]any, len(in))
			for k, item := range in {
				c, err := m.kept(t.val, item)
				if err != nil {
					return nil, err
				}
				out[k] = c
			}
			return out, nil
		}
	}
	return m.convert(t, v)
}

// wakeUp is what follows a start from kept state: OnPower is told how the VMs stand, and after a while VMs can start again. The lock is held.
func (s *Server) wakeUp() {
	for _, vm := range s.db.all("VM") {
		if !vm.flag("is_a_template") && !vm.flag("is_control_domain") {
			s.tellPower(vm, false)
		}
	}
	s.goWork(func() {
		ctx, cancel := context.WithTimeout(s.base, enableAfter)
		defer cancel()
		<-ctx.Done()
		if s.base.Err() == nil {
			s.EnableHosts()
		}
	})
}
