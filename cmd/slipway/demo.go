package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/term"

	"slipway/internal/demo"
)

type demoCmd struct {
	Orders  int           `help:"How many machines are ordered." default:"20"`
	Pools   int           `help:"Over how many pools." default:"2"`
	Seed    uint64        `help:"Seed of plans, images and pools." default:"1"`
	Timeout time.Duration `help:"Give up after this." default:"5m"`
	Keep    bool          `help:"Leave the demo's directory behind."`
	Log     string        `help:"Write the worker's log to this file." type:"path"`
}

func (c demoCmd) Run(e *env) error {
	if c.Orders < 1 || c.Orders > demo.MaxOrders || c.Pools < 1 || c.Pools > demo.MaxPools {
		return hinted{error: fmt.Errorf("--orders is 1 to %d and --pools 1 to %d", demo.MaxOrders, demo.MaxPools), next: "slipway demo --help", code: exitUsage}
	}
	log := slog.New(slog.DiscardHandler)
	if c.Log != "" {
		f, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		log = logger(f, e.Debug)
	}
	result, err := demo.Run(e.ctx, demo.Options{Orders: c.Orders, Pools: c.Pools, Seed: c.Seed, Timeout: c.Timeout, Keep: c.Keep,
		Stdout: e.stdout, Width: columns(e.stdout), Log: log})
	return verdict(result, err)
}

// verdict makes the exit code say what the last line says.
func verdict(result demo.Result, err error) error {
	if err == nil && !result.OK() {
		err = fmt.Errorf("the world and the store do not agree")
	}
	if err != nil {
		return hinted{error: err, next: "slipway demo --keep --log demo.log", code: exitFailure}
	}
	return nil
}

// columns is a terminal's width, 0 when w is none.
func columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 40 {
		return 80
	}
	return width
}
