package orchestratortest

import (
	"slipway/orchestrator"
	"slipway/orchestrator/importing"
	"slipway/orchestrator/install"
	"slipway/orchestrator/reconfigure"
	"slipway/orchestrator/suspend"
	"slipway/orchestrator/uninstall"
	"slipway/orchestrator/unsuspend"
)

// Tables are all processes over a world, whose hypervisor something may stand in front of.
func Tables(w *World, h orchestrator.Hypervisor, d orchestrator.Desired) []*orchestrator.Process {
	prober := Prober{World: w}
	rooms, _ := d.(orchestrator.Rooms) // the store, which whoever only reads the tables leaves out
	return []*orchestrator.Process{
		install.New(install.Ports{Hypervisor: h, Desired: d, Installer: w, Prober: prober, Vault: Vault{}, Names: w, Monitoring: w,
			Addresses: w.Service, Rooms: rooms}),
		uninstall.New(uninstall.Ports{Hypervisor: h, Desired: d, Names: w, Monitoring: w}),
		reconfigure.New(reconfigure.Ports{Hypervisor: h, Desired: d, Installer: w, Maintainer: w, Prober: prober, Names: w, Monitoring: w}),
		suspend.New(suspend.Ports{Hypervisor: h, Desired: d, Prober: prober, Monitoring: w}),
		unsuspend.New(unsuspend.Ports{Hypervisor: h, Desired: d, Prober: prober, Monitoring: w}),
		importing.New(importing.Ports{Hypervisor: h, Importer: w, Desired: d, Prober: prober}),
	}
}
