package service_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

// TestConsolePorts is a worker whose pool has its consoles at the gateway: the machine's own port lets in the password that an operator is
// told, a rotated one replaces it, and a move to xvp and back leaves port and password.
func TestConsolePorts(t *testing.T) {
	s := site(t)
	at, address := free(t), fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 2+rand.IntN(250))
	s.Config.Console = config.Console{Listen: at, URL: "http://" + at, Ports: address}
	pool := &s.Config.Pools[0]
	for i := range s.Config.Pools {
		s.Config.Pools[i].ConsoleBackend, s.Config.Pools[i].ConsolePorts = "gateway", orchestrator.PortRange{First: 9100 + uint16(i)*50, Last: 9149 + uint16(i)*50}
	}
	for i, g := range s.Config.Groups {
		if slices.Contains(pool.Console, g.ID) {
			s.Config.Groups[i].Members = append(g.Members, config.Member{Name: "gateways", Gateway: true, Address: address})
			s.Config.Groups[i].MinApplied = len(g.Members) + 1
		}
	}
	w, _ := work(t, s, io.Discard)
	put(t, w, order())
	client := api.NewClient(s.Config.Socket)
	t.Cleanup(client.Close)
	var machine string
	until(t, "a machine is ready", func() bool { // verify has shaken hands with the port
		var runs []api.Run
		if client.Get(t.Context(), "/v1/runs", &runs) != nil || len(runs) != 1 {
			return false
		}
		machine = runs[0].Machine
		return runs[0].State == "production_ready"
	})
	told := func() api.ConsolePassword {
		t.Helper()
		var p api.ConsolePassword
		if err := client.Post(t.Context(), "/v1/console-password/"+machine, api.AskPassword{Reason: "ticket 1"}, &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	view := func(p api.ConsolePassword) error {
		conn, err := net.Dial("tcp", net.JoinHostPort(address, strconv.Itoa(int(p.Port))))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = rfb.Handshake(t.Context(), conn, orchestrator.NewSecret(p.Password))
		return err
	}
	first := told()
	if first.Address != address || view(first) != nil {
		t.Errorf("at %s port %d: %v", first.Address, first.Port, view(first))
	}

	var m api.Machine
	if err := client.Get(t.Context(), "/v1/machines/"+machine, &m); err != nil || m.Placement.ConsoleAddress != address || m.Placement.ConsoleBackend != "gateway" {
		t.Errorf("it is shown at %q by %q, %v", m.Placement.ConsoleAddress, m.Placement.ConsoleBackend, err)
	}

	path := "/v1/consoles/" + m.Placement.Pool
	var moved api.ConsoleMoved
	if err := client.Post(t.Context(), path+"/move", api.ConsoleMove{To: "xvp"}, &moved); err != nil || moved.Done || moved.Machines != 1 || !strings.Contains(strings.Join(moved.Notes, " "), "no longer at "+address) {
		t.Errorf("looked at: %+v, %v", moved, err)
	}
	proof := func() (p api.ConsoleProof) {
		t.Helper()
		if err := client.Get(t.Context(), path+"/proof", &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := proof(); p.Backend != "gateway" || p.Answered != 1 || p.Asked != 1 || !p.Applied {
		t.Errorf("nothing was to be moved: %+v", p)
	}
	move := func(to string) {
		t.Helper()
		if err := client.Post(t.Context(), path+"/move", api.ConsoleMove{To: to, Yes: true, Reason: "a trial"}, &moved); err != nil || !moved.Done {
			t.Fatalf("%+v, %v", moved, err)
		}
	}
	move("xvp")
	until(t, "the gateway has let go of the port, and xvp's file has it", func() bool { return proof().Applied && view(first) != nil })
	move("gateway")
	until(t, "the gateway has it again", func() bool { p := proof(); return p.Applied && p.Answered == 1 && view(first) == nil })
	if p := told(); p != first {
		t.Error("port and password are not those of before")
	}
	var all []api.Consoles
	if err := client.Get(t.Context(), "/v1/consoles", &all); err != nil || len(all) == 0 {
		t.Fatal(all, err)
	}
	for _, c := range all {
		if c.Pool == m.Placement.Pool && (c.Backend != "gateway" || c.Machines != 1 || c.Groups[0].Gateways != 1 || c.Groups[0].Ports != 1) {
			t.Errorf("listed as %+v", c)
		}
	}
	if err := client.Post(t.Context(), "/v1/consoles/nowhere/move", api.ConsoleMove{To: "xvp"}, nil); err == nil || !strings.Contains(err.Error(), "no pool") {
		t.Errorf("a pool that there is not: %v", err)
	}
	if err := client.Post(t.Context(), path+"/move", api.ConsoleMove{To: "guacamole"}, nil); err == nil || !strings.Contains(err.Error(), "xvp or gateway") {
		t.Errorf("a backend that there is not: %v", err)
	}
}
