package xvp

import (
	"context"

	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
)

var _ agent.Surveyor = (*Unit)(nil)

// Survey implements agent.Surveyor: the ports of the site's own pools, by the main file and its includes without ours. Passwords stay here.
// A file that does not parse is an error that names file and line: xvp would not run on it.
func (u *Unit) Survey(context.Context) (apply.Survey, error) {
	var s apply.Survey
	if u.cfg.Main == u.cfg.Target {
		return s, nil
	}
	main, err := readFile(u.cfg.Main)
	if err != nil {
		return s, err
	}
	s.Files = append(s.Files, u.cfg.Main)
	rules := Rules{Ours: func(string) bool { return false }, Include: func(path string) ([]byte, error) {
		if path == u.cfg.Target {
			return nil, nil
		}
		text, err := readFile(path)
		if err == nil {
			s.Files = append(s.Files, path)
		}
		return text, err
	}}
	file, err := Parse(u.cfg.Main, main, rules)
	if err != nil {
		return s, err
	}
	if file.Multiplex != 0 && s.Room(1) {
		s.Consoles = append(s.Consoles, apply.SurveyedConsole{Place: apply.Place{File: u.cfg.Main}, Port: file.Multiplex})
	}
	for _, pool := range file.Pools {
		for _, vm := range pool.VMs {
			if vm.Port != 0 && s.Room(1) {
				s.Consoles = append(s.Consoles, apply.SurveyedConsole{
					Place: apply.Place{File: vm.File, Line: vm.Line}, Port: vm.Port, Pool: pool.Name, VM: vm.Name,
				})
			}
		}
	}
	return s, nil
}
