# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Stand-ins for two GPUs of LAB_GPU_MIB each: ggml's RPC servers offer this CPU as a device (see lab_gpu.py).
mask_units
forget_identity
install_packages libggml0-backend-rpc
# The server is in a package that would bring llama.cpp-tools, which is for the role to install: take the one program.
server=/usr/libexec/lab-gpu/ggml-rpc-server
cd /run
apt-get download -qq llama.cpp-tools-extra
dpkg-deb --fsys-tarfile llama.cpp-tools-extra_*.deb |
  tar -x --wildcards --transform 's|.*/||' './usr/libexec/*/ggml-rpc-server'
install -D -m 755 ggml-rpc-server "$server"
cd /
install -D -m 755 /run/images/lab_gpu.py /usr/libexec/lab-gpu/lab_gpu.py
cat >/etc/systemd/system/lab-gpu@.service <<UNIT
[Unit]
Description=Lab stand-in for GPU %i (ggml's RPC server on the CPU, not a GPU)
Before=llama-router.service

[Service]
Type=notify
EnvironmentFile=/etc/lab-gpu/%i
ExecStart=/usr/bin/python3 /usr/libexec/lab-gpu/lab_gpu.py \${PORT} ${LAB_GPU_MIB}
DynamicUser=yes
Restart=always
RestartSec=1
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
UNIT
mkdir -p /etc/lab-gpu
echo PORT=50161 >/etc/lab-gpu/0
echo PORT=50162 >/etc/lab-gpu/1
systemctl enable -q lab-gpu@0.service lab-gpu@1.service
