package api

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// NoBrowser serves h to programs but not to web pages, because a page that is open in a
// browser on this host must not reach it. The headers Origin and Sec-Fetch-Site identify
// browsers. If loopback is set, the Host header must also name this host, because DNS
// rebinding can point a page's own name to this host. refuse writes the error response.
func NoBrowser(h http.Handler, loopback bool, refuse func(w http.ResponseWriter, status int, message string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		site := r.Header.Get("Sec-Fetch-Site")
		switch {
		case !ownOrigin(r, loopback) || site != "" && site != "none":
			refuse(w, http.StatusForbidden, "requests of web pages are refused (header Origin or Sec-Fetch-Site)")
		case loopback && r.Host != "" && !IsLoopback(r.Host):
			refuse(w, http.StatusForbidden, "the request is for host "+shown(r.Host)+"; only localhost and its addresses are served here")
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// ownOrigin reports whether the Origin header rules out a web page. Some websocket
// libraries send the requested host as the origin. No page has that origin.
func ownOrigin(r *http.Request, loopback bool) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || loopback && origin == "http://"+r.Host
}

// IsLoopback reports whether host, with or without a port, is localhost or a loopback
// address.
func IsLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return err == nil && a.Unmap().IsLoopback()
}
