package iptables

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/workers/appliance/agent"
)

var update = flag.Bool("update", false, "write the golden files")

// helperVar makes the test binary one of the processes that a firewall runs: "watch" the revert timer's watcher, "reload" an agent that
// dies between Reload and Prove. Its arguments are the UnitConfig and, for "reload", the Change as JSON.
const helperVar = "SLIPWAY_IPTABLES_TEST_HELPER"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == helperVar {
		if err := helper(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func helper(what string, args []string) error {
	var cfg UnitConfig
	if err := json.Unmarshal([]byte(args[0]), &cfg); err != nil {
		return err
	}
	unit, err := NewUnit(withWatcher(cfg))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch what {
	case "watch":
		return unit.Watch(ctx, os.NewFile(3, "ready"))
	case "reload":
		if err := syscall.Setpgid(0, 0); err != nil { // the test is not to die with us
			return err
		}
		var change agent.Change
		if err := json.Unmarshal([]byte(args[1]), &change); err != nil {
			return err
		}
		if err := unit.Reload(ctx, change); err != nil {
			return err
		}
		return killSelf()
	default:
		return fmt.Errorf("no helper %q", what)
	}
}

// killSelf ends this process and all of its group, as the end of a session may.
func killSelf() error {
	if err := syscall.Kill(-syscall.Getpid(), syscall.SIGKILL); err != nil {
		return err
	}
	select {}
}

// withWatcher makes this test binary the watcher of a unit.
func withWatcher(cfg UnitConfig) UnitConfig {
	cfg.Watcher = nil
	text, err := json.Marshal(cfg)
	if err != nil {
		panic(err) // a struct of strings
	}
	cfg.Watcher = []string{os.Args[0], helperVar, "watch", string(text)}
	return cfg
}
