package service

import (
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"slipway/orchestrator"
	"slipway/orchestrator/orchestratortest"
	"slipway/templates"
	"slipway/workers/appliance"
	"slipway/workers/console/xvp"
)

// TestXVPHasNothingOfTheGateways: of a group's entries its file has those of the pools that are xvp's, and the gateways are asked before
// the hosts, so that they have let go of a port before xvp binds it.
func TestXVPHasNothingOfTheGateways(t *testing.T) {
	cfg := xvp.Config{Pools: []xvp.PoolConfig{{ID: "p", Name: "slipway-p", Manager: "xvp", Password: orchestrator.NewSecret("account"),
		Hosts: []xvp.HostConfig{{Name: "xen1", Address: netip.MustParseAddr("192.0.2.1")}}}}}
	text := func(vm string, port uint16, backend orchestrator.ConsoleBackend) appliance.Text {
		sealed, err := orchestratortest.Vault{}.Seal(vm, orchestrator.SealedConsole, orchestrator.NewSecret("password"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(orchestrator.ConsoleEntry{Machine: vm, Pool: "p", VM: vm, Port: port, Password: base64.StdEncoding.EncodeToString(sealed)})
		if err != nil {
			t.Fatal(err)
		}
		return appliance.Text{Machine: vm, Body: body, Backend: backend}
	}
	const ours, theirs = "11111111-2222-4333-8444-000000000001", "11111111-2222-4333-8444-000000000002"
	rendering, bad, err := renderConsole(templates.Open(""), cfg, orchestratortest.Vault{})([]appliance.Text{
		text(ours, 20000, orchestrator.ConsoleGateway), text(theirs, 20001, ""),
	})
	if err != nil || len(bad) > 0 {
		t.Fatal(bad, err)
	}
	if file := rendering.Files[0].Content; strings.Contains(file, ours) || !strings.Contains(file, theirs) {
		t.Errorf("the file:\n%s", file)
	}
	members := consoleMembers(nil, []appliance.Member{{Name: "xvp-1"}}, "gateways")
	if len(members) != 2 || members[0].Name != "gateways" || members[0].Follow == nil {
		t.Errorf("members: %+v", members)
	}
}
