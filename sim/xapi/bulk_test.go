package xapi

import "testing"

func TestTransfersAreRefused(t *testing.T) {
	b := newBench(t, nil)
	vm, _ := b.running()
	uuid := b.record("VM", vm)["uuid"].(string)
	task := b.must("task.create", "export", "").(string)
	lost := b.must("task.create", "export of nothing", "").(string)
	for name, c := range map[string]struct{ head, status, realm string }{
		"no session":  {"GET /export?uuid=" + uuid + " HTTP/1.1\nHost: x\n\n", "401", `Basic realm="get_export"`},
		"bad session": {"PUT /import?session_id=OpaqueRef:nope HTTP/1.1\nHost: x\nContent-Length: 0\n\n", "401", `Basic realm="put_import"`},
		"unknown":     {"GET /export?uuid=x&session_id=" + b.session + "&task_id=" + lost + " HTTP/1.1\nHost: x\n\n", "500", ""},
		"running":     {"GET /export?uuid=" + uuid + "&session_id=" + b.session + "&task_id=" + task + " HTTP/1.1\nHost: x\n\n", "500", ""},
		"wrong way":   {"PUT /export?uuid=" + uuid + "&session_id=" + b.session + " HTTP/1.1\nHost: x\nContent-Length: 0\n\n", "403", ""},
	} {
		_, r := b.dial(c.head)
		status, headers := b.head(r)
		if status[len("HTTP/1.1 "):][:3] != c.status || headers["www-authenticate"] != c.realm {
			t.Errorf("%s: %q %v", name, status, headers)
		}
	}
	if rec := b.record("task", task); rec["status"] != "failure" || rec["error_info"].([]any)[0] != "VM_BAD_POWER_STATE" {
		t.Errorf("task of a refused export: %v", rec)
	}
	if rec := b.record("task", lost); rec["status"] != "pending" {
		t.Errorf("task of an unknown VM: %v", rec)
	}
}
