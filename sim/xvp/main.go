package xvp

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
)

// options are xvp's own, and two that only a stand-in has.
type options struct {
	config, log, pidfile string
	foreground           bool
	listen, xenapi       string
}

// Main runs the stand-in with the arguments after the program's name and returns its exit code: 0 after SIGTERM or, in the background, at
// once; 1 when it could not go on; 2 for wrong arguments. It may be called once in a process: it handles the process's signals.
func Main(args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("xvp", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.config, "c", "/etc/xvp.conf", "configuration `file`")
	flags.StringVar(&o.log, "l", "-", "log `file`, - is standard output")
	flags.StringVar(&o.pidfile, "p", "/var/run/xvp.pid", "pid `file`")
	flags.BoolVar(&o.foreground, "n", false, "stay in the foreground")
	flags.StringVar(&o.listen, "listen", "127.0.0.1", "`address` to listen on")
	flags.StringVar(&o.xenapi, "xenapi", "", "`host:port` of a XenAPI server to fetch consoles from")
	for name, usage := range map[string]string{"v": "passed over", "t": "passed over"} {
		flags.Bool(name, false, usage)
	}
	flags.Int("r", 20, "passed over")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil || flags.NArg() > 0 {
		return 2
	}
	if !o.foreground {
		if err := background(); err != nil {
			fmt.Fprintln(stderr, "xvp:", err)
			return 1
		}
		return 0
	}
	if err := o.serve(stdout); err != nil {
		fmt.Fprintln(stderr, "xvp:", err)
		return 1
	}
	return 0
}

// background starts this program again with -n in a session of its own, and does not wait for it: xvp does not either.
func background() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, append(os.Args[1:], "-n")...) //nolint:noctx // it outlives us
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// serve lives until SIGTERM, or until it cannot go on.
func (o options) serve(stdout io.Writer) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)

	out := &logFile{path: o.log, stdout: stdout}
	if err := out.reopen(); err != nil {
		return err
	}
	defer func() { _ = out.close() }()
	log := slog.New(slog.NewTextHandler(out, nil))

	if err := os.WriteFile(o.pidfile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(o.pidfile) }()
	ctx, cancel := context.WithCancel(context.Background())
	s := newServer(o.listen, consoleSource(o.xenapi), log)
	defer func() {
		cancel()
		s.close()
	}()

	if err := s.load(ctx, o.config); err != nil {
		log.Error("fatal", "err", err)
		return err
	}
	for {
		select {
		case err := <-s.broken:
			log.Error("fatal", "err", err)
			return err
		case sig := <-signals:
			switch sig {
			case syscall.SIGTERM, syscall.SIGINT:
				log.Info("terminating", "signal", sig.String())
				return nil
			case syscall.SIGUSR1:
				log.Info("re-reading config file on signal")
				if err := s.load(ctx, o.config); err != nil {
					log.Error("fatal", "err", err)
					return err
				}
			case syscall.SIGHUP:
				if err := out.reopen(); err != nil {
					return err
				}
			case syscall.SIGQUIT:
				log.Info("disconnecting all active sessions")
				s.dropSessions()
			case syscall.SIGUSR2:
				log.Info("dumping active session list", "sessions", s.sessionCount())
			}
		}
	}
}
