package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// asProgram makes this test binary the program: a test that kills a worker needs it as a process.
const asProgram = "SLIPWAY_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	os.Exit(m.Run())
}
