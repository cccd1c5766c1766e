package gateway

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	open    *prometheus.GaugeVec
	refused *prometheus.CounterVec
	ended   *prometheus.CounterVec
	ports   *prometheus.GaugeVec
}

func newMetrics() *metrics {
	return &metrics{
		open:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "slipway_console_connections", Help: "Screens that are being looked at, by way in."}, []string{"way"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_console_refused_total", Help: "Viewers that were not let in, by reason."}, []string{"reason"}),
		ended:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_console_ended_total", Help: "Connections that ended, by reason."}, []string{"reason"}),
		ports:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "slipway_console_ports", Help: "Machines' own ports: open, and failed to open."}, []string{"state"}),
	}
}

// Collectors are the gateway's metrics.
func (g *Gateway) Collectors() []prometheus.Collector {
	return []prometheus.Collector{g.metrics.open, g.metrics.refused, g.metrics.ended, g.metrics.ports}
}
