package api

import "time"

// Backlog is a tenant whose orders wait because it has as many runs under way as it may.
type Backlog struct {
	Tenant   string    `json:"tenant"`
	Waiting  int       `json:"waiting"`
	UnderWay int       `json:"under_way"`
	Limit    int       `json:"limit"`
	Oldest   time.Time `json:"oldest"`
}
