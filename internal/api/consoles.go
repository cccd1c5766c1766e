package api

// Consoles is what shows a pool's consoles: GET /v1/consoles.
type Consoles struct {
	Pool       string         `json:"pool"`
	Backend    string         `json:"backend"`    // "xvp" or "gateway"
	Configured string         `json:"configured"` // pools[].console_backend
	Machines   int            `json:"machines"`   // with a console
	Groups     []ConsoleGroup `json:"groups"`
}

// ConsoleGroup is one group of a pool's.
type ConsoleGroup struct {
	Group    string `json:"group"`
	Address  string `json:"address,omitempty"` // where the ports are
	Applied  bool   `json:"applied"`           // the newest generation is confirmed
	Gateways int    `json:"gateways"`          // that are running
	Ports    int    `json:"ports"`             // that the gateways listen on
	Problem  string `json:"problem,omitempty"`
}

// ConsoleMove asks for a pool's consoles to be moved: POST /v1/consoles/{pool}/move. Without Yes it is only looked at.
type ConsoleMove struct {
	To     string `json:"to"`
	Yes    bool   `json:"yes,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// ConsoleMoved says what a move does, or did.
type ConsoleMoved struct {
	Pool     string   `json:"pool"`
	From     string   `json:"from"`
	To       string   `json:"to"`
	Machines int      `json:"machines"`
	Notes    []string `json:"notes,omitempty"` // what somebody should know before
	Done     bool     `json:"done"`
}

// ConsoleProof is how a pool's consoles answer: GET /v1/consoles/{pool}/proof. At most fifty machines are asked.
type ConsoleProof struct {
	Pool     string   `json:"pool"`
	Backend  string   `json:"backend"`
	Applied  bool     `json:"applied"` // in every group that has machines of the pool
	Machines int      `json:"machines"`
	Asked    int      `json:"asked"`
	Answered int      `json:"answered"` // to their passwords
	Failed   []string `json:"failed,omitempty"`
}

// ConsolePassword is what a machine's console port asks for: POST /v1/console-password/{machine} with AskPassword.
type ConsolePassword struct {
	Machine  string `json:"machine"`
	Tenant   string `json:"tenant"`
	Name     string `json:"name"`
	Address  string `json:"address,omitempty"` // "" where nobody configured one
	Port     uint16 `json:"port"`
	Password string `json:"password"`
}
