"""How near a reconstruction is: PSNR, SSIM, LPIPS, and distances between sets of videos."""
