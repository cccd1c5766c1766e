package xapi

import "context"

// Restart does what a restart of the toolstack does: answers under way are lost, sessions and tasks are gone (finished ones too), unfinished
// operations have left nothing, running VMs run on, and the hosts are disabled until EnableHosts, as they are for some seconds.
func (s *Server) Restart() {
	s.mu.Lock()
	s.stopOperations()
	s.operations, s.stopOperations = context.WithCancel(s.base)
	for _, sess := range s.sessions {
		s.logout(sess)
	}
	for _, t := range s.db.all("task") {
		s.db.destroy(t)
	}
	s.interrupted()
	s.ended()
	s.unlock()
}

// interrupted ends the operations that objects are in, and disables the hosts. The lock is held.
func (s *Server) interrupted() {
	for _, name := range []string{"VM", "VDI", "VBD", "VIF", "SR"} {
		for _, o := range s.db.all(name) {
			if len(o.dict("current_operations")) > 0 {
				s.db.set(o, "current_operations", map[string]any{})
				s.refresh(o)
			}
		}
	}
	for _, h := range s.hosts {
		s.db.set(h, "enabled", false)
	}
}

// EnableHosts ends the time after a Restart in which no VM can start.
func (s *Server) EnableHosts() {
	s.mu.Lock()
	defer s.unlock()
	for _, h := range s.hosts {
		s.db.set(h, "enabled", true)
	}
}
