package main

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// stranger makes a VM past slipway and starts it: NAME MAC ADDRESS, and a further MAC for a second interface. Its uuid is in $STRANGER.
func stranger(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	site := of(ts).site
	call := func(result any, method string, args ...any) { ts.Check(site.Call(ctx, 0, result, method, args...)) }
	var templates []string
	var vm, uuid, network string
	call(&templates, "VM.get_by_name_label", "debian-12")
	call(&vm, "VM.clone", templates[0], args[0])
	call(nil, "VM.provision", vm)
	call(&uuid, "VM.get_uuid", vm)
	call(&network, "network.get_by_uuid", site.Config.Pools[0].Network)
	var vifs []string
	call(&vifs, "VM.get_VIFs", vm)
	for _, vif := range vifs {
		call(nil, "VIF.destroy", vif)
	}
	for device, mac := range append([]string{args[1]}, args[3:]...) {
		call(nil, "VIF.create", map[string]any{"device": string(rune('0' + device)), "network": network, "VM": vm, "MAC": mac, "MTU": "1500",
			"other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}})
	}
	site.Report(0, args[1], args[2])
	call(nil, "VM.start", vm, false, false)
	ts.Setenv("STRANGER", uuid)
}

// occupy gives the first subnet of a site's dhcpd.conf a range for anybody, and includes another file: MAIN FILE.
func occupy(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile(args[0])
	ts.Check(err)
	before, after, ok := strings.Cut(string(text), "{\n")
	if !ok {
		ts.Fatalf("%s has no subnet", args[0])
	}
	edited := before + "{\n  range 10.77.0.12 10.77.0.14;\n" + after + "include \"" + args[1] + "\";\n"
	ts.Check(os.WriteFile(args[0], []byte(edited), 0o644))
}
