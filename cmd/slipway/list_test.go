package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jedib0t/go-pretty/v6/table"

	"slipway/internal/api"
)

// runsServe answers like a serve that has so many runs.
func runsServe(t *testing.T, has int) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sw") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(make([]api.Run, min(has, limit)))
	}))
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return socket
}

// A list that is cut says so, where it is no part of the result: a script that goes through it would leave the rest out.
func TestListSaysThatThereAreMore(t *testing.T) {
	socket := runsServe(t, 3)
	for _, tc := range []struct {
		limit       string
		code, shown int
		more        bool
	}{{"2", exitOK, 2, true}, {"3", exitOK, 3, false}, {"1000", exitOK, 3, false}, {"0", exitUsage, 0, false}, {"-1", exitUsage, 0, false}, {"100001", exitUsage, 0, false}} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"--socket", socket, "-o", "json", "list", "--limit=" + tc.limit}, strings.NewReader(""), &stdout, &stderr)
		var runs []api.Run
		if code == exitOK {
			if err := json.Unmarshal(stdout.Bytes(), &runs); err != nil {
				t.Fatal(err)
			}
		}
		if code != tc.code || len(runs) != tc.shown || strings.Contains(stderr.String(), "there are more") != tc.more {
			t.Errorf("--limit %s: code %d, %d runs, %q", tc.limit, code, len(runs), stderr.String())
		}
	}
}

// The reason of a run has the room that the terminal leaves, and says nothing twice.
func TestRunTable(t *testing.T) {
	const id = "01a20290-33ef-7690-8000-000000000001"
	cause := "dial tcp 10.77.0.10:22: connect: no route to host, after " + strings.Repeat("x", 400)
	runs := []api.Run{{Machine: id, Tenant: "acme", Name: "web-1", Reason: "waiting for the guest: ssh.Probe: machine " + id + ": " + cause}}
	for _, tc := range []struct{ width, least, most int }{
		{0, 400, 500},   // no terminal: all that is worth reading
		{300, 290, 300}, // the rest of a wide one
		{80, 150, 240},  // too narrow for any: the reason keeps its least
	} {
		w := table.NewWriter()
		w.SetStyle(table.StyleLight)
		w.Style().Options = table.OptionsNoBordersAndSeparators
		runTable(w, runs, tc.width)
		lines := strings.Split(w.Render(), "\n")
		row := lines[len(lines)-1]
		if n := len([]rune(row)); n < tc.least || n > tc.most {
			t.Errorf("width %d: a row of %d", tc.width, n)
		}
		if !strings.Contains(row, "waiting for the guest: dial tcp 10.77.0.10:22") || strings.Count(row, id) != 1 {
			t.Errorf("width %d: %s", tc.width, row)
		}
	}
}
