package isc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
)

var _ agent.Tracer = (*Unit)(nil)

// maxLog bounds in bytes what is read of the log, from its beginning as the command gives it; maxLogLine what is looked at of one line.
const (
	maxLog     = 64 << 20
	maxLogLine = 4 << 10
)

// Trace implements agent.Tracer: the lines of dhcpd's log that name the address, as dhcpd writes it (DHCPDISCOVER from 02:00:00:00:00:01 via
// eth0). The command of Config.Log prints the log.
func (u *Unit) Trace(ctx context.Context, mac string) (apply.Trace, error) {
	if len(u.cfg.Log) == 0 {
		return apply.Trace{}, errors.New("log: is not configured: say which command prints the end of dhcpd's log")
	}
	cmd := exec.CommandContext(ctx, u.cfg.Log[0], u.cfg.Log[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	var complaint bounded
	cmd.Stderr = &complaint
	output, err := cmd.StdoutPipe()
	if err != nil {
		return apply.Trace{}, err
	}
	if err := cmd.Start(); err != nil {
		return apply.Trace{}, fmt.Errorf("log: %w", err)
	}
	found, readErr := search(io.LimitReader(output, maxLog), mac)
	_ = output.Close() // it may have more to say than is looked at
	if err := cmd.Wait(); err != nil && found.Read == 0 {
		return apply.Trace{}, fmt.Errorf("log: %s: %w: %s", u.cfg.Log[0], err, printable(complaint.String()))
	}
	return found, readErr
}

// search looks for an address in a log. Of a line that is too long its beginning counts.
func search(log io.Reader, mac string) (found apply.Trace, err error) {
	lines := bufio.NewReaderSize(log, maxLogLine)
	for {
		line, more, err := lines.ReadLine()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		text := string(line)
		for more && err == nil {
			_, more, err = lines.ReadLine()
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return found, err
		}
		found.Read++
		if strings.Contains(strings.ToLower(text), mac) {
			found.Count++
			found.Lines = append(found.Lines[max(0, len(found.Lines)-apply.MaxTrace+1):], text)
		}
	}
}
