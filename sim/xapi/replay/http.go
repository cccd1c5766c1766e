package replay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// http repeats a raw exchange over a connection of its own. Requests with a body cannot be repeated: recordings keep its length only.
func (p *player) http(e *entry) {
	p.report.Exchanges++
	reason, excepted := p.setup.exception(e)
	switch {
	case excepted:
	case e.BodyBytes > 0 || strings.Contains(e.Request, "{"):
		reason = bodiless
	case e.Head == "":
		reason = "no answer was recorded"
	}
	if reason != "" {
		p.report.Excepted++
		p.report.Exceptions = append(p.report.Exceptions, Outcome{e.index, "http " + e.HTTP, reason})
		return
	}
	if problem := p.repeat(e); problem != "" {
		p.report.Differ++
		p.report.Differences = append(p.report.Differences, Outcome{e.index, "http " + e.HTTP, problem})
		return
	}
	p.report.Agree++
}

// repeat compares the status code, the headers that a client looks at, and the page of a refusal.
func (p *player) repeat(e *entry) string {
	head, err := p.raw(p.match.translate(e.Request))
	if err != nil {
		return err.Error()
	}
	want := strings.Split(strings.TrimSpace(e.Head), "\n")
	if code(want[0]) != code(head[0]) {
		return fmt.Sprintf("recorded %q, simulated %q", want[0], head[0])
	}
	recorded, simulated := headers(want[1:]), headers(head[1:])
	for _, name := range []string{"content-type", "www-authenticate", "access-control-allow-origin", "access-control-allow-methods"} {
		if recorded[name] != simulated[name] {
			return fmt.Sprintf("%s: recorded %q, simulated %q", name, recorded[name], simulated[name])
		}
	}
	return ""
}

func code(status string) string {
	words := strings.Fields(status)
	if len(words) < 2 {
		return ""
	}
	return words[1]
}

func headers(lines []string) map[string]string {
	out := map[string]string{}
	for _, line := range lines {
		k, v, _ := strings.Cut(line, ":")
		out[strings.ToLower(strings.TrimSpace(k))] = strings.TrimSpace(v)
	}
	return out
}

// raw sends a request as it stands and reads the head of the answer.
func (p *player) raw(request string) ([]string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(p.ctx)
	done := make(chan error, 1)
	go func() { done <- p.sim.Serve(ctx, ln, nil) }()
	defer func() { cancel(); <-done }()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be done about it
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.LimitReader(conn, 64<<10))
	var head []string
	for {
		line, err := r.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if line != "" {
			head = append(head, line)
		}
		if line == "" || err != nil {
			if len(head) == 0 {
				return nil, errors.Join(errors.New("no answer"), err)
			}
			return head, nil
		}
	}
}
