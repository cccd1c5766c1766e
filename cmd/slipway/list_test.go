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
