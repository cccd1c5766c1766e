#requires -Version 5.1
# Switches Windows' firewall on for every profile: what comes in is blocked but for Remote Desktop and ping. WinRM's own rules stay as
# the template has them, for the installer still needs them; who may come near is the appliance's to say. Safe to run again.
$ErrorActionPreference = 'Stop'

# Rules by group resource and by name, for what they are called is translated.
Enable-NetFirewallRule -Group '@FirewallAPI.dll,-28752'
foreach ($rule in 'FPS-ICMP4-ERQ-In', 'FPS-ICMP6-ERQ-In') {
    Set-NetFirewallRule -Name $rule -Enabled True -Profile Any -Action Allow
}
# A clone meets its network for the first time, and an unknown one is public.
Set-NetFirewallRule -Group '@FirewallAPI.dll,-28752' -Profile Any
$winrm = Get-NetFirewallPortFilter -Protocol TCP | Where-Object { $_.LocalPort -contains '5986' } | Get-NetFirewallRule |
    Where-Object { $_.Enabled -eq 'True' -and $_.Direction -eq 'Inbound' -and $_.Action -eq 'Allow' }
if (-not $winrm) {
    New-NetFirewallRule -Name 'slipway-winrm' -DisplayName 'WinRM over HTTPS' -Direction Inbound -Protocol TCP -LocalPort 5986 -Action Allow -Profile Any | Out-Null
}
Set-NetFirewallProfile -All -Enabled True -DefaultInboundAction Block -DefaultOutboundAction Allow
Write-Output 'the firewall is on for every profile'
exit 0
