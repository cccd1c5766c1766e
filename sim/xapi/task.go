package xapi

import (
	"errors"
	"time"
)

// taskKept is how long a finished task stays (xapi_globs.ml: completed tasks are deleted after 65 minutes).
const taskKept = 65 * time.Minute

func (s *Server) newTask(name, description string) *object {
	s.pruneTasks()
	return s.db.create("task", map[string]any{
		"name_label": name, "name_description": description, "created": s.today(), "status": "pending",
		"resident_on": s.pool.str("master"), "type": "<none/>",
	})
}

func (s *Server) pruneTasks() {
	limit := dateOf(s.now().Add(-taskKept))
	for o := s.db.tables[s.db.class("task")].head; o != nil; {
		next := o.next
		if o.get("finished").(date) == epoch || o.get("finished").(date) > limit {
			return // the list is ordered by the last change, so nothing behind is older
		}
		s.db.destroy(o)
		o = next
	}
}

// background runs an asynchronous call as a task and answers with the task at once, even when the call will fail.
func (c *call) background(args []any, f *armedFault) any {
	s := c.s
	s.mu.Lock()
	c.task = s.newTask("Async."+c.msg.full, "")
	s.db.set(c.task, "allowed_operations", []any{"cancel"})
	ref := c.task.ref
	s.unlock()
	s.goWork(func() {
		if f != nil && f.When != After && len(f.Error) > 0 {
			s.mu.Lock()
			c.finish(nil, fail(f.Error[0], f.Error[1:]...))
			s.unlock()
			return
		}
		s.mu.Lock()
		defer s.unlock()
		result, err := c.handle(args)
		if err == nil && f != nil && f.When == After && len(f.Error) > 0 {
			err = fail(f.Error[0], f.Error[1:]...)
		}
		c.finish(result, err) // under the same lock as the last effect: they arrive in one event.from
	})
	return ref
}

func (c *call) finish(result any, err error) {
	db, t := c.s.db, c.task
	if db.get("task", t.ref) == nil {
		return
	}
	if c.ctx.Err() != nil { // a server that stops takes its tasks along, as a toolstack restart does
		db.destroy(t)
		return
	}
	var f *failure
	switch {
	case errors.As(err, &f):
		db.set(t, "error_info", anySlice(append([]string{f.code}, f.params...)))
		db.set(t, "status", "failure")
	case err != nil:
		db.set(t, "error_info", []any{"INTERNAL_ERROR", err.Error()})
		db.set(t, "status", "failure")
	default:
		db.set(t, "result", xmlText(result))
		db.set(t, "status", "success")
	}
	db.set(t, "progress", 1.0)
	db.set(t, "allowed_operations", []any{})
	db.set(t, "finished", c.s.today())
	if _, doomed := t.dict("other_config")[doomedKey]; doomed {
		db.destroy(t)
	}
}

// doomedKey marks a task that was destroyed while it ran: its row goes when its work ends.
const doomedKey = "simulator:destroyed"

// ensureTask gives a synchronous call the task that its objects' current_operations name.
func (c *call) ensureTask() *object {
	if c.task == nil {
		c.task = c.s.newTask(c.msg.full, "")
		c.s.db.set(c.task, "allowed_operations", []any{"cancel"})
	}
	return c.task
}

// part is a call inside of a call: it has a task of its own below the outer one.
func (c *call) part(name string) *call {
	p := *c
	p.parent = c.ensureTask()
	p.task = c.s.newTask(name, "")
	db := c.s.db
	db.set(p.task, "allowed_operations", []any{"cancel"})
	db.set(p.task, "subtask_of", p.parent.ref)
	db.link(p.parent, "subtasks", p.task.ref)
	return &p
}

// partDone takes the inner task away; one that failed stays to be looked at.
func (c *call) partDone(p *call, err error) {
	db := c.s.db
	if err != nil {
		p.finish(nil, err)
		return
	}
	db.unlink(p.parent, "subtasks", p.task.ref)
	db.destroy(p.task)
}

func taskHandlers() map[string]handler {
	return map[string]handler{
		"task.create": func(c *call, args []any) (any, error) {
			return c.s.newTask(args[0].(string), args[1].(string)).ref, nil
		},
		// A cancellation is only a wish: most operations of xapi finish with success all the same.
		"task.cancel": func(c *call, args []any) (any, error) {
			t, err := c.object("task", args[0])
			if err != nil {
				return nil, err
			}
			db := c.s.db
			db.set(t, "current_operations", map[string]any{"DummyRef:|" + db.newUUID() + "|task.cancel": "cancel"})
			return nil, nil
		},
		"task.destroy": func(c *call, args []any) (any, error) {
			t, err := c.object("task", args[0])
			if err != nil {
				return nil, err
			}
			db := c.s.db
			if t.str("status") == "pending" && len(t.set("allowed_operations")) > 0 {
				db.set(t, "other_config", withKey(t.dict("other_config"), doomedKey, "true"))
				return nil, nil
			}
			db.destroy(t)
			return nil, nil
		},
	}
}

func (t *object) cancelled() bool { return len(t.dict("current_operations")) > 0 }
