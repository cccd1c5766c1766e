package service

import (
	"log/slog"
	"strings"

	"slipway/internal/config"
	"slipway/store/postgres"
)

// warnInsecure says at each start what the configuration lets go unproven on the way to servers. XenAPI, WinRM and the console gateway say
// theirs themselves.
func warnInsecure(cfg *config.Config, dsn string, log *slog.Logger) {
	if mode := postgres.Unverified(dsn); mode != "" {
		log.Warn("database: sslmode="+mode+" takes anybody for the database; whoever sits on the path can read its password and every row", "sslmode", mode)
	}
	if cfg.Queue.Insecure && !config.PrivateBroker(cfg.Queue.URL) {
		log.Warn("queue.insecure: the broker's password and customers' orders cross the network in the clear")
	}
	if cfg.Notify.Insecure && strings.HasPrefix(cfg.Notify.Webhook, "http:") {
		log.Warn("notify.insecure: notices cross the network in the clear")
	}
}
