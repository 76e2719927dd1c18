package powerstrip

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/jsonobject"
)

// Environment variables of a container that name its network.
const (
	envNetwork = "SP_NETWORK"
	envCIDR    = "SOCKETPLANE_CIDR"
)

// Create returns the body with which Docker should create a container. It returns the body
// unchanged, byte for byte, unless the environment in it names a network. Every error is
// an *api.Error.
func (a *Adapter) Create(ctx context.Context, body []byte) ([]byte, error) {
	if len(strings.TrimSpace(string(body))) == 0 {
		return body, nil // Docker reports what is missing
	}
	whole, env, err := parseEnv(body)
	if err != nil {
		return nil, unreadable(err)
	}
	w, err := wishOf(env)
	if err != nil {
		return nil, err
	}
	if w.empty() {
		return body, nil
	}
	c, err := parseConfig(whole)
	if err != nil {
		return nil, unreadable(err)
	}
	n, found, err := a.find(ctx, w)
	if err != nil {
		return nil, err
	}
	// Create no network for a container that will be rejected.
	if !c.free() && !found {
		return nil, c.refuse(w)
	}
	if !found {
		if n, err = a.make(ctx, w); err != nil {
			return nil, err
		}
	}
	name, err := a.cfg.DockerNetwork(ctx, n.ID)
	if err != nil {
		return nil, err
	}
	if !c.free() && c.mode != name {
		return nil, c.refuse(w)
	}
	return c.on(name)
}

func unreadable(err error) error {
	return api.Errorf(api.CodeInvalid, "the container's configuration cannot be read: %w", err)
}

// parseEnv decodes only the part of a configuration that every container needs: the
// environment.
func parseEnv(body []byte) (whole *jsonobject.Object, env []string, err error) {
	if whole, err = jsonobject.Parse(body); err != nil {
		return nil, nil, err
	}
	key, err := whole.Fold("Env")
	if err != nil {
		return nil, nil, err
	}
	if raw := whole.Get(key); !jsonobject.IsNull(raw) && json.Unmarshal(raw, &env) != nil {
		return nil, nil, fmt.Errorf("key %q is no array of texts", key)
	}
	return whole, env, nil
}

// config is the network part of a container's configuration. The keys are in the client's
// spelling.
type config struct {
	whole        *jsonobject.Object
	hostKey      string
	host         *jsonobject.Object // HostConfig
	modeKey      string
	mode         string // HostConfig.NetworkMode
	netKey       string
	networking   *jsonobject.Object // NetworkingConfig
	endpointsKey string
	endpoints    *jsonobject.Object // NetworkingConfig.EndpointsConfig
}

func parseConfig(whole *jsonobject.Object) (c config, err error) {
	c.whole = whole
	if c.hostKey, c.host, err = child(whole, "HostConfig"); err != nil {
		return c, err
	}
	if c.modeKey, err = c.host.Fold("NetworkMode"); err != nil {
		return c, err
	}
	if raw := c.host.Get(c.modeKey); raw != nil && json.Unmarshal(raw, &c.mode) != nil {
		return c, fmt.Errorf("key %q is no text", c.modeKey)
	}
	if c.netKey, c.networking, err = child(whole, "NetworkingConfig"); err != nil {
		return c, err
	}
	c.endpointsKey, c.endpoints, err = child(c.networking, "EndpointsConfig")
	return c, err
}

// child returns the object under the key name of o. The key may be in any case.
func child(o *jsonobject.Object, name string) (key string, c *jsonobject.Object, err error) {
	if key, err = o.Fold(name); err != nil {
		return "", nil, err
	}
	c, err = o.Child(key)
	return key, c, err
}

// free reports whether the container itself requests no network of Docker.
func (c config) free() bool { return c.mode == "" || c.mode == "default" || c.mode == "bridge" }

func (c config) refuse(w wish) error {
	return api.Errorf(api.CodeInvalid, "the container asks for network mode %.80q and for %s; leave one of them out", c.mode, w)
}

// on returns the configuration with the container on Docker network name. Endpoint
// settings for Docker's default network, such as an address or aliases, then apply to this
// network.
func (c config) on(name string) ([]byte, error) {
	for _, key := range c.endpoints.Keys() {
		if key != "default" && key != "bridge" && key != cmp.Or(c.mode, "default") {
			continue
		}
		if err := c.endpoints.Rename(key, name); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "EndpointsConfig: %w", err)
		}
		c.networking.Set(c.endpointsKey, c.endpoints.Bytes())
		c.whole.Set(c.netKey, c.networking.Bytes())
	}
	c.host.Set(c.modeKey, jsonobject.String(name))
	c.whole.Set(c.hostKey, c.host.Bytes())
	return c.whole.Bytes(), nil
}
