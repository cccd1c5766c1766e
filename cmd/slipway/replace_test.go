package main

import (
	"context"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// replace puts a copy in the place of a VM, as an administrator does after a restore, and gives it the machine's tag: UUID.
func replace(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	call := func(result any, method string, args ...any) {
		ts.Check(of(ts).site.Call(ctx, 0, result, method, args...))
	}
	var was, is, uuid string
	call(&was, "VM.get_by_uuid", args[0])
	call(&is, "VM.clone", was, "from a backup")
	call(&uuid, "VM.get_uuid", is)
	call(nil, "VM.destroy", was)
	call(nil, "VM.remove_from_other_config", is, "slipway_self")
	call(nil, "VM.add_to_other_config", is, "slipway_self", uuid)
	ts.Setenv("COPY", uuid)
}
